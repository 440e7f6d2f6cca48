//! How far a pull or an import has come, told to a client a few times a second.

use crate::span::log_failure;
use crisp_cri_api::node::v1;
use crisp_image::{Progress, ProgressSink};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

/// Often enough for a progress bar that moves.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Reports that wait for a slow client; beyond them it misses some.
const QUEUE: usize = 4;

/// Answers with reports of the work, the last one of which is what it came to.
pub(crate) type Reports<M> = ReceiverStream<Result<M, Status>>;

/// What the work has told so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    blobs: Vec<v1::BlobProgress>,
    received_bytes: u64,
}

impl Heard {
    /// Where the work tells its progress to.
    pub(crate) fn sink(&self) -> ProgressSink {
        let heard = self.clone();
        ProgressSink::new(move |progress| heard.facts().hear(progress))
    }

    /// Of a pull: what has arrived of each blob.
    pub(crate) fn blobs(&self) -> Vec<v1::BlobProgress> {
        self.facts().blobs.clone()
    }

    /// Of an import: what was read of the archive.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.facts().received_bytes
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn hear(&mut self, progress: &Progress) {
        match progress {
            Progress::Layers(layers) => {
                let blob = |layer: &crisp_image::LayerSize| v1::BlobProgress {
                    digest: layer.digest.to_string(),
                    fetched_bytes: 0,
                    total_bytes: layer.total_bytes,
                };
                self.blobs = layers.iter().map(blob).collect();
            }
            Progress::Fetching {
                digest, done_bytes, ..
            } => self.fetched(digest.as_str(), *done_bytes),
            Progress::Present { digest } | Progress::Unpacked { digest } => {
                self.fetched(digest.as_str(), u64::MAX);
            }
            Progress::Reading { done_bytes } => self.received_bytes = *done_bytes,
            Progress::Resolving | Progress::Committing => {}
        }
    }

    /// A layer may stand in an image more than once.
    fn fetched(&mut self, digest: &str, bytes: u64) {
        for blob in self.blobs.iter_mut().filter(|blob| blob.digest == digest) {
            blob.fetched_bytes = bytes.min(blob.total_bytes);
        }
    }
}

/// Does the work and reports what `now` tells while it lasts. A client that goes away ends it.
pub(crate) fn reports<M: Send + 'static>(
    work: impl Future<Output = Result<M, Status>> + Send + 'static,
    now: impl Fn() -> M + Send + 'static,
) -> Reports<M> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(report(work, now, sender).in_current_span());
    ReceiverStream::new(receiver)
}

async fn report<M>(
    work: impl Future<Output = Result<M, Status>>,
    now: impl Fn() -> M,
    sender: Sender<Result<M, Status>>,
) {
    let mut work = pin!(work);
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    let last = loop {
        tokio::select! {
            last = &mut work => break last,
            _ = ticks.tick() => {
                if let Err(TrySendError::Closed(_)) = sender.try_send(Ok(now())) {
                    return;
                }
            }
        }
    };
    if let Err(status) = &last {
        log_failure(status);
    }
    // A client that has gone hears nothing.
    let _ = sender.send(last).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_image::{Digest, LayerSize};
    use tokio_stream::StreamExt;

    fn digest(digit: &str) -> Digest {
        format!("sha256:{}", digit.repeat(64)).parse().unwrap()
    }

    fn layer(digit: &str, total_bytes: u64) -> LayerSize {
        LayerSize {
            digest: digest(digit),
            total_bytes,
        }
    }

    fn fetched(facts: &Facts) -> Vec<u64> {
        facts.blobs.iter().map(|blob| blob.fetched_bytes).collect()
    }

    #[test]
    fn each_layer_grows_to_its_size() {
        let mut facts = Facts::default();
        facts.hear(&Progress::Resolving);
        facts.hear(&Progress::Layers(vec![
            layer("a", 10),
            layer("b", 20),
            layer("a", 10),
        ]));
        facts.hear(&Progress::Present {
            digest: digest("a"),
        });
        assert_eq!(fetched(&facts), [10, 0, 10]);
        facts.hear(&Progress::Fetching {
            digest: digest("b"),
            done_bytes: 7,
            total_bytes: 20,
        });
        assert_eq!(fetched(&facts), [10, 7, 10]);
        facts.hear(&Progress::Unpacked {
            digest: digest("b"),
        });
        assert_eq!(fetched(&facts), [10, 20, 10]);
        facts.hear(&Progress::Reading { done_bytes: 5 });
        assert_eq!(facts.received_bytes, 5);
    }

    #[tokio::test]
    async fn the_last_report_is_what_the_work_came_to() {
        let done = reports(async { Ok("done") }, || "under way");
        let told: Vec<_> = done.map(Result::unwrap).collect().await;
        assert_eq!(told.last(), Some(&"done"));

        let failed = reports(async { Err(Status::not_found("x")) }, || ());
        let told: Vec<_> = failed.collect().await;
        assert_eq!(told.last().unwrap().as_ref().unwrap_err().message(), "x");
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_a_client_does_not_read() {
        let heard = Arc::new(tokio::sync::Notify::new());
        let ended = heard.clone();
        let work = async move {
            tokio::time::sleep(REPORT_INTERVAL * 6).await;
            ended.notify_one();
            Ok(())
        };
        let reports = reports(work, || ());
        heard.notified().await;
        drop(reports);
    }
}
