//! What a pull or an import tells about how far it has come.

use crate::Digest;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One step of a pull or an import. Byte counts of one blob only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The registry is asked what the reference means.
    Resolving,
    /// The image consists of these layers, in the order of the manifest.
    Layers(Vec<LayerSize>),
    /// The layer was here before.
    Present { digest: Digest },
    /// So much of the layer has arrived (and was unpacked on the way).
    Fetching {
        digest: Digest,
        done_bytes: u64,
        total_bytes: u64,
    },
    /// The layer is complete and verified.
    Unpacked { digest: Digest },
    /// So much of an archive was read.
    Reading { done_bytes: u64 },
    /// The image is being entered in the index.
    Committing,
}

/// A layer as the registry stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSize {
    pub digest: Digest,
    pub total_bytes: u64,
}

type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Where progress goes: to a function that must return at once, or nowhere.
#[derive(Clone, Default)]
pub struct ProgressSink(Option<Listener>);

impl ProgressSink {
    /// Calls `listener` at every step, from the threads that do the work.
    pub fn new(listener: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    pub(crate) fn tell(&self, progress: &Progress) {
        if let Some(listener) = &self.0 {
            listener(progress);
        }
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProgressSink")
            .field(&self.0.is_some())
            .finish()
    }
}

/// The listeners of one pull that several callers wait for.
#[derive(Clone, Default)]
pub(crate) struct Audience(Arc<Mutex<Listeners>>);

#[derive(Default)]
struct Listeners {
    sinks: Vec<ProgressSink>,
    /// What the image consists of, for those who come later.
    layers: Option<Progress>,
}

impl Audience {
    pub(crate) fn join(&self, sink: &ProgressSink) {
        if sink.0.is_none() {
            return;
        }
        let mut listeners = self.listeners();
        if let Some(layers) = &listeners.layers {
            sink.tell(layers);
        }
        listeners.sinks.push(sink.clone());
    }

    pub(crate) fn tell(&self, progress: &Progress) {
        let mut listeners = self.listeners();
        if matches!(progress, Progress::Layers(_)) {
            listeners.layers = Some(progress.clone());
        }
        for sink in &listeners.sinks {
            sink.tell(progress);
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_is_told_of_the_layers_too() {
        let audience = Audience::default();
        let layers = Progress::Layers(Vec::new());
        for progress in [Progress::Resolving, layers.clone()] {
            audience.tell(&progress);
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = heard.clone();
        audience.join(&ProgressSink::new(move |progress| {
            listener.lock().unwrap().push(progress.clone())
        }));
        audience.tell(&Progress::Committing);
        assert_eq!(*heard.lock().unwrap(), [layers, Progress::Committing]);
    }
}
