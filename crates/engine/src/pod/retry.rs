//! Taking down again what could not be taken down: a CNI plugin, say, that did not answer; and writing
//! again what could not be written. The client tries again too, if it has not lost interest; nothing
//! waits for it to.

use super::Pod;
use crate::engine::Engine;
use crate::error::{Result, chain};
use crate::record::PodRecord;
use crisp_crash::point;
use crisp_model::PodState;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// The first pause before another attempt; each is twice the one before, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(5 * 60);

/// Tries again for as long as there is an engine, whenever it is told that something is left.
pub(crate) async fn take_down_again(engine: Weak<Engine>, left: Arc<Notify>) {
    loop {
        left.notified().await;
        let mut pause = PAUSE_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            let Some(engine) = engine.upgrade() else {
                return;
            };
            if engine.take_down_rest().await {
                break;
            }
            pause = PAUSE_LONGEST.min(pause * 2);
        }
    }
}

impl Engine {
    /// Whether nothing is left.
    async fn take_down_rest(&self) -> bool {
        let saved = self.save_pods().and(self.save_containers());
        if let Err(error) = &saved {
            tracing::warn!(error = chain(error), "not all that is known is on disk yet");
        }
        let mut done = saved.is_ok();
        for pod in self.store.pods() {
            // One of which nothing is left may be busy for long.
            if leftover(&pod).is_none() {
                continue;
            }
            let _operation = pod.operation.lock().await;
            let attempt = match leftover(&pod) {
                None => continue,
                Some(PodState::Starting) => self.forget_pod(&pod).await,
                Some(_) => self.take_down_stopped(&pod).await,
            };
            if let Err(error) = attempt {
                tracing::warn!(pod = %pod.id(), error = chain(&error), "a pod is still not taken down whole");
                done = false;
            }
        }
        done
    }

    /// Puts on disk what is not there yet of pods. Tries all, and gives the first error.
    pub(super) fn save_pods(&self) -> Result<()> {
        self.records.make_good(|| {
            let pods = self.store.pods();
            let saved = pods.iter().map(|pod| pod.save_if_stale(&self.records));
            saved.fold(Ok(()), Result::and)
        })
    }

    /// The same of containers.
    fn save_containers(&self) -> Result<()> {
        let containers = self.store.containers();
        let saved = containers.iter().map(|it| it.save_if_stale(&self.records));
        saved.fold(Ok(()), Result::and)
    }

    /// Takes down what is left of a pod that was stopped, and keeps the pod.
    pub(crate) async fn take_down_stopped(&self, pod: &Pod) -> Result<()> {
        self.teardown_pod(pod).await?;
        pod.update(PodRecord::forget_effects);
        self.save_pod_or_tell(pod);
        point!("stop-pod.recorded-torn-down");
        Ok(())
    }
}

/// The state of a pod of which something is there and should not be: one that was stopped, or one that
/// was not made to its end and is seen by its client as one that is not ready.
fn leftover(pod: &Pod) -> Option<PodState> {
    let record = pod.record();
    let is_left = match record.state {
        PodState::Starting => pod.making.finished(),
        PodState::NotReady => record.has_effects(),
        PodState::Ready => false,
    };
    is_left.then_some(record.state)
}
