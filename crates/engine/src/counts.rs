//! What the engine adds to the daemon's metrics: how many there are of everything, and how long the phases
//! of a start take.

use crate::engine::Engine;
use crisp_metrics::{Count, Metrics, Phase};
use crisp_model::{ContainerState, PodState};
use tracing::Instrument;

const POD_STATES: [PodState; 3] = [PodState::Starting, PodState::Ready, PodState::NotReady];

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
            pods: POD_STATES
                .map(|state| (pod_state_word(state), in_state(state)))
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
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let span = tracing::debug_span!("phase", phase = phase.name());
        self.metrics.time(phase, work).instrument(span).await
    }
}

fn pod_state_word(state: PodState) -> &'static str {
    match state {
        PodState::Starting => "starting",
        PodState::Ready => "ready",
        PodState::NotReady => "not_ready",
    }
}
