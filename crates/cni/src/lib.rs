//! A client of Container Network Interface (CNI) plugins: programs that connect network namespaces to
//! networks, as files of an administrator describe these.
//!
//! ```text
//! Network (a file of the configuration directory) ─▶ Attachment (of one namespace, with what plugins answered)
//!                                                        │
//! Client: add, check, delete, collect garbage, status ───┴─▶ plugin: one program, run with a bound on everything
//! ```
//!
//! Specification: <https://www.cni.dev/docs/spec/>, versions 0.1.0 to 1.1.0. Where it leaves something
//! open, this does what libcni does, since that is what plugins have been tried with. Pods are not known
//! here, and nothing is kept on disk: an [`Attachment`] has all that a later DEL needs, and whoever has it
//! keeps it.

#![forbid(unsafe_code)]

mod answer;
mod attachment;
mod chain;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod network;
mod plugin;
#[cfg(test)]
mod testing;
mod version;

pub use attachment::{Attachment, Request};
pub use chain::Client;
pub use error::{Error, Refusal};
pub use network::Network;
pub use plugin::Verb;
pub use version::Version;
