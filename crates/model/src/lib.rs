//! What pods and containers are: ids, configuration, states and their transitions, and the pure
//! function from configuration to OCI runtime spec. Also the format of container logs.
//!
//! Nothing here does I/O. Types serialise because they are kept in records on disk.

#![forbid(unsafe_code)]

mod config;
mod id;
pub mod log;
mod quantity;
mod selinux;
pub mod signal;
pub mod spec;
mod state;
mod user;

pub use config::*;
pub use id::{ContainerId, ExecId, InvalidId, PodId};
pub use quantity::{InvalidQuantity, Quantity};
pub use selinux::*;
pub use state::*;
pub use user::*;
