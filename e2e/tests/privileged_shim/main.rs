//! A real shim, driven over its socket: the pause process, containers and exec'd processes, their
//! output, input and exits, and that nothing stays behind.
//!
//! Each test has a pod of its own, with its own directory and cgroups. The shim is the program that
//! `CRISP_SHIM` names, or the static build in the target directory.

#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]
#![allow(clippy::print_stderr, reason = "cargo shows it for tests that fail")]

mod containers;
mod daemons;
mod execs;
mod harness;
mod memory;
mod pods;
mod program;
mod streams;
