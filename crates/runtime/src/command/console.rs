//! The socket over which a runtime hands over the master of a process's terminal.

use super::program::readable;
use crate::error::{Context, StartError};
use crate::plan::Stdio;
use crate::report::Reporter;
use crisp_sys::socket::{Wait, receive};
use nix::errno::Errno;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// In the workspace, so that the whole address fits: it may have 108 bytes (unix(7)).
const SOCKET: &str = "console.sock";

/// How long the terminal may take when the runtime has ended: it was sent before.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// More than the name of the terminal that comes with the descriptor.
const MAX_NAME_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Console(UnixListener);

impl Console {
    /// The socket for a process that has a terminal.
    pub(super) fn wanted(stdio: &Stdio) -> Result<Option<Self>, StartError> {
        match stdio {
            Stdio::Pipes(_) => Ok(None),
            Stdio::Terminal(_) => Ok(Some(Self(UnixListener::bind(SOCKET).step("bind", SOCKET)?))),
        }
    }

    /// What tells the runtime of it.
    pub(super) fn arguments(&self) -> [&str; 2] {
        ["--console-socket", SOCKET]
    }

    /// Takes the terminal and reports it.
    pub(super) fn hand_over(self, reporter: &Reporter) -> Result<(), StartError> {
        let late = || Err(Errno::ETIMEDOUT).step("wait for the terminal", "");
        if !readable(self.0.as_fd(), MAX_WAIT)? {
            return late();
        }
        let (connection, _) = self.0.accept().step("take the terminal", "")?;
        if !readable(connection.as_fd(), MAX_WAIT)? {
            return late();
        }
        let received = receive(connection.as_fd(), &mut [0; MAX_NAME_BYTES], Wait::Never);
        let mut fds = received.step("take the terminal", "")?.fds;
        let master = fds
            .pop()
            .ok_or(Errno::ENOTTY)
            .step("take the terminal", "")?;
        reporter
            .terminal(master.as_fd())
            .step("hand over the terminal", "")
    }
}
