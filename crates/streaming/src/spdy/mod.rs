//! SPDY/3.1, the side of a server that only answers, as Kubernetes uses it.
//!
//! SPDY Protocol, Draft 3.1 (chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1).

mod connection;
mod dictionary;
pub(crate) mod frame;
pub(crate) mod headers;

pub(crate) use connection::{BACKLOG, Connection, Stream};
pub(crate) use frame::StreamId;
