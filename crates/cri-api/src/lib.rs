//! The CRI v1 protocol (API v0.36): messages, clients and server traits, generated from
//! `proto/cri.proto` when the crate is built.
//!
//! Beside the generated code there is only what every peer needs alike: the bound on messages, the
//! way to dial the socket, and a `Debug` that keeps credentials out of logs.

#![forbid(unsafe_code)]

mod connect;
mod redact;

#[cfg(test)]
mod golden;

pub use connect::{MAX_MESSAGE_BYTES, connect, image_client, runtime_client};

/// The package `runtime.v1`.
pub mod v1 {
    #![allow(missing_debug_implementations, unreachable_pub)]
    #![allow(clippy::all, clippy::pedantic)]

    tonic::include_proto!("runtime.v1");
}
