//! The first process of a container that is checkpointed.

use crate::container::Container;
use crate::error::{Error, Result};
use crisp_sys::process::pidfd_open;
use crisp_sys::wait;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// A process, and what tells that the number is still its own.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// That of a container that runs.
    pub(super) fn of(container: &Container) -> Result<Self> {
        let pid = container.state().pid().ok_or_else(has_ended)?;
        let number = i32::try_from(pid).map_err(|_| has_ended())?;
        let pidfd = match pidfd_open(Pid::from_raw(number)) {
            Err(Errno::ESRCH) => return Err(has_ended()),
            pidfd => {
                pidfd.map_err(|e| Error::Internal(format!("cannot follow process {pid}: {e}")))?
            }
        };
        // The number may have become another's before there was the descriptor.
        match container.state().pid() == Some(pid) {
            true => Ok(Self { pid, pidfd }),
            false => Err(has_ended()),
        }
    }

    /// Until it has ended, its number is nobody else's and what is its own is still there.
    pub(super) fn check_runs(&self) -> Result<()> {
        match wait::readable(self.pidfd.as_fd(), Instant::now()) {
            Ok(false) => Ok(()),
            _ => Err(has_ended()),
        }
    }
}

fn has_ended() -> Error {
    Error::FailedPrecondition("the container has ended meanwhile".to_owned())
}
