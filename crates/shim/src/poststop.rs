//! What is run when a container has ended, by a child of the shim: its hooks, or the command line of its
//! runtime, which forgets the container and has its hooks run.

use crate::journal::{Chain, journal};
use crisp_runtime::CommandLine;
use crisp_sys::process::SingleThreaded;
use nix::unistd::Pid;
use std::path::PathBuf;

/// What is to be run.
#[derive(Debug)]
pub(crate) enum Poststop {
    Nothing,
    /// Those of the spec in this bundle.
    Hooks(PathBuf),
    Delete(CommandLine),
}

impl Poststop {
    /// Begins to run it. The child always ends soon; none: there is nothing to wait for.
    pub(crate) fn begin(&self, id: &str, witness: &SingleThreaded) -> Option<Pid> {
        let failed = |error: &dyn std::error::Error| {
            journal!("container {id}: not followed up: {}", Chain(error));
        };
        let child = match self {
            Self::Nothing => return None,
            Self::Hooks(bundle) => {
                crisp_runtime::poststop(bundle, id, witness).map_err(|error| failed(&error))
            }
            Self::Delete(line) => line.delete(witness).map_err(|error| failed(&error)),
        };
        child.ok().map(|child| child.pid)
    }
}
