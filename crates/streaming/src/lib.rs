//! The streaming server of a CRI runtime: exec, attach and port-forward over SPDY/3.1 and WebSocket.
//!
//! A CRI `Exec`, `Attach` or `PortForward` call registers a request with the [`Server`] and answers
//! with a URL. Whoever presents the URL's token within a minute, once, gets the streams; only then is
//! the process started, or the port dialled, by what the request carries. This crate moves bytes
//! between the client's streams and file descriptors. It knows no containers and no gRPC.
//!
//! # What happens when a client leaves
//! The session's descriptors are closed and its futures dropped; the process is not signalled. A
//! process with a terminal whose master nobody else holds gets SIGHUP, one without reads the end of
//! its input and gets SIGPIPE when it writes, as behind ssh. A container does not notice.
//!
//! # Bounds
//! A session is one task and what it spawns, all of which end with it. Bytes for a stream that takes
//! none wait, up to [`STREAM_QUEUE_MAX_BYTES`] each and [`CONNECTION_QUEUE_MAX_BYTES`] together; beyond
//! that the connection is not read. SPDY's flow control is not used, because the clients of Kubernetes
//! neither send nor heed WINDOW_UPDATE. In the other direction nothing is read from a process that the
//! client has not taken. Data is handled as it comes, whatever length its frame claims; control frames
//! and headers are bounded.
#![forbid(unsafe_code)]

mod activity;
mod buffer;
mod command;
mod descriptor;
mod error;
mod failure;
#[doc(hidden)]
pub mod fuzz;

mod handshake;
mod inbox;
mod negotiate;
mod outbox;
mod outlet;
mod portforward;
mod relay;
mod request;
mod resize;
mod server;
mod session;
mod settings;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod transport;
mod upgraded;
mod websocket;

pub use error::Error;
pub use inbox::{CONNECTION_QUEUE_MAX_BYTES, STREAM_QUEUE_MAX_BYTES};
pub use request::{
    BoxFuture, Connect, Exit, PortForwardRequest, Process, ProcessRequest, Resize, Start,
    StartFailure, Stdin, TerminalSize,
};
pub use server::Server;
pub use settings::{Settings, TlsSettings};
