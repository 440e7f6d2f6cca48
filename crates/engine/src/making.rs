//! The outcome of making something, for all who wait for it: its first caller, and a client that has
//! lost patience and asks again under the same name.

use crate::error::Result;
use tokio::sync::watch;

/// Pending until it is finished, once.
#[derive(Debug)]
pub(crate) struct Making {
    outcome: watch::Sender<Option<Result<()>>>,
}

impl Making {
    pub(crate) fn pending() -> Self {
        Self {
            outcome: watch::Sender::new(None),
        }
    }

    /// For what a record says was made before.
    pub(crate) fn done() -> Self {
        Self {
            outcome: watch::Sender::new(Some(Ok(()))),
        }
    }

    pub(crate) fn finish(&self, result: Result<()>) {
        self.outcome.send_replace(Some(result));
    }

    /// One way or the other.
    pub(crate) fn finished(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    pub(crate) fn succeeded(&self) -> bool {
        matches!(*self.outcome.borrow(), Some(Ok(())))
    }

    pub(crate) async fn wait(&self) -> Result<()> {
        let mut outcome = self.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.expect("the sender is borrowed for as long as this waits");
        outcome.clone().expect("waited for")
    }
}
