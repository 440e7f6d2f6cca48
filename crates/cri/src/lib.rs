//! The CRI v1 gRPC services, and crisp's own small one beside them, on top of the engine.
//!
//! ```text
//!  wire ── request ──▶ model ──▶ engine ──▶ views ── answer ──▶ wire
//!           refuses what is                  │
//!           malformed, by field              └─ errors ── error ──▶ code and message
//! ```
//!
//! Nothing is decided here and nothing is kept: an RPC reads its request, makes one call of the engine
//! and writes the answer. This crate and the one with the generated code are the only ones that know
//! the protocol; only here a pod is called a sandbox.

#![forbid(unsafe_code)]

mod answer;
mod cadvisor;
mod deadline;
mod error;
mod events;
mod filter;
mod images;
mod incoming;
mod metrics;
mod node;
mod outgoing;
mod pieces;
mod progress;
mod request;
mod runtime;
#[cfg(test)]
mod sample;
mod serve;
mod span;
mod streams;

pub use serve::{Error, Server};

use tonic::{Response, Status};

/// What every RPC returns.
type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}
