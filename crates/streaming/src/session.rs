//! A connection after its upgrade: reading, working and answering at once, and how that ends.

use crate::activity::Activity;
use crate::failure::Failure;
use crate::outbox::Outbox;
use crate::spdy::frame::{GoAwayStatus, go_away};
use crate::websocket::frame::{CloseCode, close};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a client may take to accept the last words.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to close its side after that. Closing ours while it still sends would
/// have the kernel reset the connection, and what is under way to the client would be lost.
const LINGER: Duration = Duration::from_secs(30);

/// What the last words are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Spdy,
    WebSocket,
    /// SPDY in a WebSocket.
    Both,
}

/// How a session ended.
#[derive(Debug)]
enum Ending {
    Done,
    ClientLeft,
    Idle,
    Violation,
}

/// A connection on which a client is served.
pub(crate) struct Session {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) idle_timeout: Duration,
    pub(crate) language: Language,
}

impl Session {
    /// Reads and works until the work is done, the client leaves, or nothing moves for too long. The
    /// work is dropped then.
    pub(crate) async fn run(
        self,
        reading: impl Future<Output = Result<(), Failure>>,
        work: impl Future<Output = io::Result<()>>,
    ) {
        let mut reading = pin!(reading);
        let ending = tokio::select! {
            biased;
            worked = work => match worked {
                Ok(()) => Ending::Done,
                Err(_) => Ending::ClientLeft,
            },
            read = &mut reading => match read {
                Err(violation @ Failure::Violation(_)) => {
                    tracing::info!(%violation, "a streaming client is cut off");
                    Ending::Violation
                }
                Ok(()) | Err(Failure::Io(_)) => Ending::ClientLeft,
            },
            _ = self.outbox.serve_queue() => Ending::ClientLeft,
            () = self.activity.idle_for(self.idle_timeout) => Ending::Idle,
        };
        tracing::debug!(?ending, "a streaming session has ended");
        // What cannot be said to a client that has left does not matter.
        let _ = timeout(FAREWELL_TIMEOUT, self.say_farewell(&ending)).await;
        if let Ending::Done = ending {
            let _ = timeout(LINGER, reading).await;
        }
    }

    async fn say_farewell(&self, ending: &Ending) -> io::Result<()> {
        let (status, code) = match ending {
            Ending::Done | Ending::ClientLeft => (GoAwayStatus::Ok, CloseCode::Normal),
            Ending::Idle => (GoAwayStatus::Ok, CloseCode::GoingAway),
            Ending::Violation => (GoAwayStatus::ProtocolError, CloseCode::ProtocolError),
        };
        if self.language != Language::WebSocket {
            self.outbox.queue(&go_away(status))?;
        }
        if self.language != Language::Spdy {
            self.outbox.queue_bare(close(code).as_bytes())?;
        }
        self.outbox.close().await
    }
}
