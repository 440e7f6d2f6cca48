//! Seccomp profiles: the default one, those that users write, and their compilation to the BPF
//! that seccomp(2) takes.
//!
//! A profile is compiled once and its [`Program`] is kept; what starts a container only loads it.
//! A profile decides here what it decides under runc with libseccomp:
//!
//! - a rule without conditions beats rules with conditions, whatever their order; of several rules
//!   of one kind the first that matches decides;
//! - the conditions of a rule must hold together, but when two of them are about the same argument,
//!   each of them suffices (runc has always read them so);
//! - names that an architecture does not have are skipped;
//! - syscalls newer than every one that a denying profile names fail with ENOSYS, so that a C library
//!   falls back to an older one;
//! - the syscalls of architectures that the profile does not list kill the process.
//!
//! Nothing here loads a filter, and no profile is looked for on disk.

#![forbid(unsafe_code)]

mod abi;
mod action;
mod assembler;
mod compile;
mod condition;
mod default_profile;
mod error;
mod multiplex;
mod profile;
mod rules;
mod segments;
mod support;

#[cfg(test)]
mod oracle;

pub use assembler::{MAX_INSTRUCTIONS, Program};
pub use compile::compile;
pub use default_profile::default_profile;
pub use error::Error;
pub use profile::{MAX_PROFILE_BYTES, parse_profile};
pub use support::available_actions;
