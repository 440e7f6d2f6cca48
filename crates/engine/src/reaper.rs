//! Takes the end of the shims that this daemon started, so that none stays behind as a zombie.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The children that are waited for. Others are their parents' business in this program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper {
    children: Arc<Mutex<HashSet<Pid>>>,
}

impl Reaper {
    /// Begins to wait.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let ended = signal(SignalKind::child())?;
        tokio::spawn(reaper.clone().work(ended));
        Ok(reaper)
    }

    /// A child that may already have ended.
    pub(crate) fn expect(&self, child: Pid) {
        self.locked().insert(child);
        self.reap();
    }

    async fn work(self, mut ended: Signal) {
        while ended.recv().await.is_some() {
            self.reap();
        }
    }

    fn reap(&self) {
        let alive = |child: &Pid| {
            matches!(
                waitpid(*child, Some(WaitPidFlag::WNOHANG)),
                Ok(WaitStatus::StillAlive)
            )
        };
        self.locked().retain(alive);
    }

    fn locked(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
