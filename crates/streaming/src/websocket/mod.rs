//! WebSocket (RFC 6455), the side of a server, as Kubernetes uses it: messages of channels, or SPDY.

pub(crate) mod channel;
mod connection;
pub(crate) mod frame;
pub(crate) mod tunnel;

pub(crate) use connection::{Connection, Routes};
