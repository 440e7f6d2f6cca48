//! Control groups against the kernel: limits hold, figures are true, nothing is left.
//!
//! Each test works below a cgroup of its own, in every hierarchy of the host. Version 2 is tried in the
//! version 2 hierarchy of a hybrid host, as far as that goes without controllers.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests fail by it, with the error")]

mod cpu;
mod devices;
mod figures;
mod harness;
mod io;
mod lifetime;
mod memory;
mod processes;
mod settings;
