//! The hooks that are run when a container has ended, by a child of the shim.

use crate::journal::{Chain, journal};
use crisp_sys::process::SingleThreaded;
use nix::unistd::Pid;
use std::path::{Path, PathBuf};

/// Where a container is with its hooks.
#[derive(Debug)]
pub(crate) enum Poststop {
    /// There are none, or they have been run.
    Over,
    Due {
        bundle: PathBuf,
    },
    Running {
        child: Pid,
    },
}

impl Poststop {
    /// Begins to run them, if they are due.
    pub(crate) fn begin(&mut self, id: &str, witness: &SingleThreaded) {
        let Self::Due { bundle } = self else {
            return;
        };
        *self = match crisp_runtime::poststop(bundle, id, witness) {
            Ok(child) => Self::Running { child: child.pid },
            Err(error) => {
                journal!("container {id}: hooks are not run: {}", Chain(&error));
                Self::Over
            }
        };
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// A child of the shim has ended: whether it was the one that runs these.
    pub(crate) fn child_ended(&mut self, pid: Pid) -> bool {
        let theirs = matches!(self, Self::Running { child } if *child == pid);
        if theirs {
            *self = Self::Over;
        }
        theirs
    }

    /// The hooks of a container whose start has found out whether there are any.
    pub(crate) fn of(bundle: &Path, has_hooks: bool) -> Self {
        match has_hooks {
            true => Self::Due {
                bundle: bundle.to_owned(),
            },
            false => Self::Over,
        }
    }
}
