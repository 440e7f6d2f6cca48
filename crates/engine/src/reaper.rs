//! Takes the end of the shims that this daemon started, so that none stays behind as a zombie.

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
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
        // Whoever hears of an end meanwhile waits until the child is known.
        let mut children = self.locked();
        if !reaped(child) {
            children.insert(child);
        }
    }

    async fn work(self, mut ended: Signal) {
        while ended.recv().await.is_some() {
            self.reap();
        }
    }

    /// Asks for whoever has ended, of as many as there are pods. Another's child that has, and is left to its
    /// parent, is in front of all that have after it: then each is asked for.
    fn reap(&self) {
        let mut children = self.locked();
        let any = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Some(ended) = waitid(Id::All, any).ok().and_then(|status| status.pid()) {
            if !children.contains(&ended) {
                return children.retain(|child| !reaped(*child));
            }
            if reaped(ended) {
                children.remove(&ended);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reaps a child if it has ended, and says whether it is gone.
fn reaped(child: Pid) -> bool {
    let status = waitpid(child, Some(WaitPidFlag::WNOHANG));
    !matches!(status, Ok(WaitStatus::StillAlive))
}
