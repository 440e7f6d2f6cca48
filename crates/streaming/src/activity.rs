//! Whether anything moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// When something moved last.
#[derive(Debug)]
pub(crate) struct Activity {
    since: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn touch(&self) {
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Ready when nothing has moved for so long.
    pub(crate) async fn idle_for(&self, duration: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let due = self.since + last + duration;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_silence_is_idle() {
        let activity = Activity::new();
        let began = Instant::now();
        let moving = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                activity.touch();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = moving => {}
            () = activity.idle_for(Duration::from_secs(10)) => {}
        }
        assert_eq!(began.elapsed().as_secs(), 50);
    }
}
