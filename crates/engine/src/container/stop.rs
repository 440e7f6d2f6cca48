//! Stopping a container: the stop signal, patience, SIGKILL.

use super::Container;
use crate::engine::{Engine, detached};
use crate::error::chain;
use crate::error::{Error, Result};
use crisp_model::signal::SIGKILL;
use crisp_shim_api::message::{Signal, request};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// How long the kernel may take to end what was sent SIGKILL. A process that waits for a device or a
/// dead file server takes longer, and its client is told.
const KILL_TIMEOUT: Duration = Duration::from_secs(120);

/// A longer grace period than this is cut: nothing waits for ever.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The stop that is under way, if one is: when it loses patience. A later request can only make that
/// earlier.
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
    /// is not known, is stopped. The stop goes on when the caller stops waiting.
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
        let deadline = Instant::now() + grace.min(GRACE_MAX);
        if let Joined::First(deadline) = container.stopping.join(deadline) {
            let (engine, container) = (self.this(), container.clone());
            tokio::spawn(async move {
                engine.stop_by(&container, deadline, grace.is_zero()).await;
                container.stopping.end();
            });
        }
        let patience = grace.min(GRACE_MAX) + KILL_TIMEOUT;
        timeout(patience, container.exited()).await.map_err(|_| Error::DeadlineExceeded {
            what: format!(
                "container {} does not end after SIGKILL (a process that waits for a device?): stopping it",
                container.id()
            ),
            after_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Signals until the container has ended or nothing more can be done.
    async fn stop_by(
        &self,
        container: &Container,
        mut deadline: watch::Receiver<Instant>,
        at_once: bool,
    ) {
        if !at_once {
            self.signal(container, container.record().stop_signal).await;
        }
        loop {
            let due = *deadline.borrow_and_update();
            tokio::select! {
                () = container.exited() => return,
                () = sleep_until(due) => break,
                // The sender stays for as long as this stop is under way.
                _ = deadline.changed() => {}
            }
        }
        self.signal(container, SIGKILL).await;
        if timeout(KILL_TIMEOUT, container.exited()).await.is_err() {
            tracing::error!(container = %container.id(), "a container does not end after SIGKILL");
        }
    }

    async fn signal(&self, container: &Container, signal: i32) {
        let request = Signal {
            container_id: container.id().to_string(),
            exec_id: String::new(),
            signal,
            all: false,
        };
        let sent = match self.shim_for_signal(container) {
            Some(shim) => shim.call(request::Body::Signal(request)).await,
            // Its end is being found out.
            None => return,
        };
        if let Err(error) = sent {
            tracing::debug!(container = %container.id(), signal, error = chain(&error), "a signal was not delivered");
        }
    }

    /// Also of a pod that is being stopped.
    fn shim_for_signal(&self, container: &Container) -> Option<Arc<crate::shim::Shim>> {
        self.store.pod(container.pod().as_str()).ok()?.shim()
    }
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
}
