//! Stopping a container: the stop signal, patience, SIGKILL.

use super::Container;
use crate::engine::{Engine, blocking, detached};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::record::Stop;
use crisp_cgroup::{CgroupPath, Error as CgroupError};
use crisp_crash::point;
use crisp_model::signal::SIGKILL;
use crisp_shim_api::message::{Signal, request};
use nix::time::{ClockId, clock_gettime};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long the kernel may take to end what was sent SIGKILL. A process that waits for a device or a
/// dead file server takes longer, and its client is told, before it has lost patience: the kubelet
/// waits two minutes longer than the grace period.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a stop signal is left to work at least: a daemon that was away when the grace period ended
/// has yet to send it. The shortest grace period that a client can give.
const SIGNAL_GRACE_MIN: Duration = Duration::from_secs(1);

/// The pause before a signal that the shim has not taken is sent again.
const SIGNAL_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A longer grace period than this is cut: nothing waits for ever.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who carries out the stop that is on record, if somebody does: when it loses patience. A later
/// request can only make that earlier.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    deadline: Mutex<Option<watch::Sender<Instant>>>,
}

/// What a request to stop finds.
enum Joined {
    First(watch::Receiver<Instant>),
    Later,
}

impl Stopping {
    fn join(&self, deadline: Instant) -> Joined {
        let mut current = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = current.as_ref() {
            sender.send_if_modified(|current| {
                let earlier = deadline < *current;
                *current = deadline.min(*current);
                earlier
            });
            return Joined::Later;
        }
        let (sender, receiver) = watch::channel(deadline);
        *current = Some(sender);
        Joined::First(receiver)
    }

    fn end(&self) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Engine {
    /// Stops a container: sends its stop signal, and SIGKILL when `grace` is over. With no grace it is
    /// killed at once. Of several requests the shortest grace holds. A container that does not run, or
    /// is not known, is stopped. The stop goes on when the caller stops waiting, and when the daemon
    /// is started again.
    ///
    /// # Errors
    /// If it does not end in spite of SIGKILL.
    pub async fn stop_container(self: &Arc<Self>, id: &str, grace: Duration) -> Result<()> {
        let Some(container) = self.store.container_if_known(id)? else {
            return Ok(());
        };
        let engine = self.clone();
        detached(async move { engine.stop_known(&container, grace).await }).await
    }

    /// Ends a container without a grace period.
    pub(crate) async fn kill_container(&self, container: &Arc<Container>) -> Result<()> {
        container.settled().await;
        self.stop_known(container, Duration::ZERO).await
    }

    async fn stop_known(&self, container: &Arc<Container>, grace: Duration) -> Result<()> {
        if container.state().pid().is_none() {
            return Ok(());
        }
        let grace = grace.min(GRACE_MAX);
        let asked = Stop {
            signal: (!grace.is_zero()).then_some(container.record().stop_signal),
            kill_at: since_boot() + grace,
        };
        container.update(|record| {
            let stop = record.stop.map_or(asked, |known| known.joined_by(asked));
            // It may have ended just now.
            record.stop = record.state.pid().map(|_| stop);
        });
        self.save_container_or_tell(container);
        point!("stop.begun");
        self.go_on_stopping(container);
        let patience = grace + KILL_TIMEOUT;
        let ended = timeout(patience, container.exited()).await;
        ended.map_err(|_| {
            let id = container.id();
            let what = format!("container {id} does not end after SIGKILL (a process that waits for a device?): stopping it");
            Error::late(what, patience)
        })?;
        point!("stop.ended");
        Ok(())
    }

    /// Carries out the stop that is on record, unless that is being done.
    pub(crate) fn go_on_stopping(&self, container: &Arc<Container>) {
        let Some(stop) = container.record().stop else {
            return;
        };
        let patience = patience(stop, since_boot());
        if let Joined::First(deadline) = container.stopping.join(Instant::now() + patience) {
            let (engine, container) = (self.this(), container.clone());
            tokio::spawn(async move {
                engine.stop_by(&container, deadline).await;
                container.stopping.end();
            });
        }
    }

    /// Signals until the container has ended or nothing more can be done.
    async fn stop_by(&self, container: &Container, deadline: watch::Receiver<Instant>) {
        tokio::select! {
            () = exited_while(container, self.send_stop_signal(container)) => return,
            () = passed(deadline) => {}
        }
        let killed = exited_while(container, self.send(container, SIGKILL));
        if timeout(KILL_TIMEOUT, killed).await.is_err() {
            tracing::error!(container = %container.id(), "a container does not end after SIGKILL");
        }
    }

    /// Sends what is to be sent first, if it was not yet.
    async fn send_stop_signal(&self, container: &Container) {
        let Some(signal) = container.record().stop.and_then(|stop| stop.signal) else {
            return;
        };
        self.send(container, signal).await;
        container.update(|record| {
            record.stop = record.stop.map(|stop| Stop {
                signal: None,
                ..stop
            });
        });
        self.save_container_or_tell(container);
    }

    /// Sends a signal until the shim has taken it. It may come twice from a shim that takes it and does
    /// not answer in time.
    async fn send(&self, container: &Container, signal: i32) {
        while let Err(error) = self.signal(container, signal).await {
            tracing::debug!(container = %container.id(), signal, error = chain(&error), "a signal was not delivered");
            sleep(SIGNAL_RETRY_PAUSE).await;
        }
    }

    /// Has the shim signal the first process, which a frozen one is thawed for.
    async fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        let request = Signal {
            container_id: container.id().to_string(),
            exec_id: String::new(),
            signal,
            all: false,
        };
        let shim = self.shim_for_signal(container);
        let shim = shim.ok_or_else(|| Error::Shim("is not connected".to_owned()))?;
        shim.call(request::Body::Signal(request)).await?;
        point!("stop.signalled");
        self.thaw_or_tell(container).await;
        Ok(())
    }

    /// Has a container that is frozen go on.
    pub(crate) async fn thaw_or_tell(&self, container: &Container) {
        if let Err(error) = self.thaw(container).await {
            tracing::warn!(container = %container.id(), error = chain(&error), "a container is not thawed");
        }
    }

    async fn thaw(&self, container: &Container) -> Result<()> {
        let path = CgroupPath::parse(&container.record().cgroup)?;
        let cgroup = self.hierarchies.open(&path);
        blocking(move || match cgroup.thaw() {
            // It has ended meanwhile, or the host cannot freeze.
            Err(CgroupError::NotFound { .. } | CgroupError::Unsupported { .. }) => Ok(()),
            done => done,
        })
        .await
    }

    /// Also of a pod that is being stopped.
    fn shim_for_signal(&self, container: &Container) -> Option<Arc<crate::shim::Shim>> {
        self.store.pod(container.pod().as_str()).ok()?.shim()
    }
}

/// Waits until a container has ended, while something is done to that end.
async fn exited_while(container: &Container, signalling: impl Future<Output = ()>) {
    tokio::select! {
        () = container.exited() => return,
        () = signalling => {}
    }
    container.exited().await;
}

/// Waits for a moment that may be moved meanwhile.
async fn passed(mut deadline: watch::Receiver<Instant>) {
    loop {
        let due = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(due) => return,
            // The sender stays for as long as the stop is under way.
            _ = deadline.changed() => {}
        }
    }
}

/// How long a container is still left to end by itself.
fn patience(stop: Stop, since_boot: Duration) -> Duration {
    let left = stop.kill_at.saturating_sub(since_boot).min(GRACE_MAX);
    match stop.signal {
        Some(_) => left.max(SIGNAL_GRACE_MIN),
        None => left,
    }
}

/// The time since the host's boot.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_stops_the_shorter_wins() {
        let stopping = Stopping::default();
        let now = Instant::now();
        let Joined::First(deadline) = stopping.join(now + Duration::from_secs(10)) else {
            panic!("the first request is the first");
        };
        assert!(matches!(
            stopping.join(now + Duration::from_secs(20)),
            Joined::Later
        ));
        assert_eq!(*deadline.borrow(), now + Duration::from_secs(10));
        assert!(matches!(
            stopping.join(now + Duration::from_secs(1)),
            Joined::Later
        ));
        assert_eq!(*deadline.borrow(), now + Duration::from_secs(1));
        stopping.end();
        assert!(matches!(stopping.join(now), Joined::First(_)));
    }

    #[test]
    fn a_signal_is_sent_once_however_often_a_stop_is_asked_for() {
        let stop = |signal, kill_at| Stop {
            signal,
            kill_at: Duration::from_secs(kill_at),
        };
        let (sent, pending) = (stop(None, 50), stop(Some(15), 50));
        assert_eq!(sent.joined_by(stop(Some(15), 90)), sent);
        assert_eq!(pending.joined_by(stop(Some(15), 20)), stop(Some(15), 20));
        assert_eq!(pending.joined_by(stop(None, 20)), stop(None, 20));
    }

    #[test]
    fn a_signal_that_is_late_has_a_moment_to_work() {
        let stop = |signal| Stop {
            signal,
            kill_at: Duration::from_secs(50),
        };
        let at = Duration::from_secs;
        assert_eq!(patience(stop(Some(15)), at(10)), at(40));
        assert_eq!(patience(stop(Some(15)), at(90)), SIGNAL_GRACE_MIN);
        assert_eq!(patience(stop(None), at(90)), Duration::ZERO);
    }

    #[tokio::test]
    async fn patience_that_is_made_shorter_ends_earlier() {
        let begun = Instant::now();
        let (sender, deadline) = watch::channel(begun + GRACE_MAX);
        let shorten = async {
            sender.send_replace(begun);
        };
        tokio::join!(passed(deadline), shorten);
    }
}
