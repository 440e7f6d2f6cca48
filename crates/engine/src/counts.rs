//! What the engine adds to the daemon's metrics: how many there are of everything, and how long the phases
//! of a start take.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crisp_metrics::{Count, Metrics, Phase};
use crisp_model::{ContainerState, PodState};
use tracing::Instrument;

impl Engine {
    /// What the daemon counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The metrics as text, with what there is now.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.metrics.text(&self.count())
    }

    fn count(&self) -> Count {
        let (pods, containers) = (self.store.pods(), self.store.containers());
        let in_state = |state: PodState| pods.iter().filter(|pod| pod.state() == state).count();
        let words: Vec<&str> = containers.iter().map(|c| c.state().word()).collect();
        let of_word = |word: &str| words.iter().filter(|is| **is == word).count();
        Count {
            pods: PodState::ALL
                .map(|state| (state.word(), in_state(state)))
                .to_vec(),
            containers: ContainerState::WORDS
                .map(|word| (word, of_word(word)))
                .to_vec(),
            images: self.images.list().len(),
            shims: pods.iter().filter(|pod| pod.shim().is_some()).count(),
            event_listeners: self.events.listeners(),
        }
    }

    /// Does a phase's work in a span of its own, and counts the time that it takes.
    pub(crate) async fn phase<T, E>(
        &self,
        phase: Phase,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        let span = tracing::debug_span!("phase", phase = phase.name());
        self.metrics.time(phase, work).instrument(span).await
    }

    /// The same of work that goes on in a thread from now on, beside what the caller does before it waits.
    pub(crate) fn phase_beside<T, W>(
        &self,
        phase: Phase,
        work: W,
    ) -> impl Future<Output = Result<T>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T> + Send + 'static,
    {
        let span = tracing::debug_span!("phase", phase = phase.name());
        let engine = self.this();
        let timed = move || span.in_scope(|| engine.metrics.time_blocking(phase, work));
        let thread = tokio::task::spawn_blocking(timed);
        async { thread.await.map_err(|e| Error::Internal(e.to_string()))? }
    }
}
