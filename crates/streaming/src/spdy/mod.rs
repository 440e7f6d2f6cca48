//! SPDY/3.1, the side of a server that only answers, as Kubernetes uses it.
//!
//! SPDY Protocol, Draft 3.1 (chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1).

mod connection;
mod dictionary;
pub(crate) mod frame;
pub(crate) mod headers;

pub(crate) use connection::{BACKLOG, Connection, Stream};
pub(crate) use frame::StreamId;

use std::sync::atomic::{AtomicU8, Ordering};

/// How far the server's side of a stream is: still open, finished, or given up with the client's side.
#[derive(Debug, Default)]
pub(crate) struct ServerSide(AtomicU8);

const OPEN: u8 = 0;
const FINISHED: u8 = 1;
const GIVEN_UP: u8 = 2;

impl ServerSide {
    /// False if it was not open any more.
    pub(crate) fn finish(&self) -> bool {
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0
            .compare_exchange(OPEN, FINISHED, success, failure)
            .is_ok()
    }

    pub(crate) fn give_up(&self) {
        self.0.store(GIVEN_UP, Ordering::Relaxed);
    }

    /// Whether nothing more is to come, given that the client has finished its side or has not.
    pub(crate) fn is_over(&self, client_finished: bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            OPEN => false,
            FINISHED => client_finished,
            _ => true,
        }
    }
}
