//! A program that dumps, from its start to its end.

use crate::Error;
use crate::log::last_words;
use crisp_crash::point;
use crisp_sys::process::pidfd_open;
use crisp_sys::wait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long after its time a program may take to come to an end by itself before it is killed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs.
pub(crate) struct Running {
    pub(crate) program: PathBuf,
    child: Child,
    ended: OwnedFd,
}

impl Running {
    /// Starts it in a process group of its own, so that no signal to the caller's reaches it.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Error> {
        let program = PathBuf::from(command.get_program());
        let spawned = command.process_group(0).spawn();
        let mut child = spawned.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::NotInstalled {
                program: program.clone(),
            },
            _ => Error::io("start the program that dumps")(error),
        })?;
        let pid = i32::try_from(child.id()).expect("the kernel's pids fit");
        point!("criu.started");
        match pidfd_open(Pid::from_raw(pid)) {
            Ok(ended) => Ok(Self {
                program,
                child,
                ended,
            }),
            Err(errno) => {
                kill(&mut child);
                Err(Error::io("follow the program that dumps")(errno))
            }
        }
    }

    /// Waits for its end, and kills it when it has none.
    pub(crate) fn end(mut self, give_up: Instant) -> Result<ExitStatus, Error> {
        match readable(self.ended.as_fd(), give_up)? {
            true => self.child.wait().map_err(Error::io("wait for its end")),
            false => Err(self.kill()),
        }
    }

    /// For one that hangs.
    pub(crate) fn kill(mut self) -> Error {
        kill(&mut self.child);
        Error::TimedOut {
            program: self.program,
        }
    }
}

/// Kills it and all that is in its group: a runtime's criu, which would go on to hold the processes.
fn kill(child: &mut Child) {
    let group = i32::try_from(child.id()).expect("the kernel's pids fit");
    // It was not waited for, so the group's number is nobody else's. Both fail only for one that has
    // ended.
    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    let _ = child.wait();
}

/// Runs a program that dumps by itself to its end. What it logs is looked for in `logs` when it fails.
///
/// # Errors
/// Any of [`Error`]; [`Error::TimedOut`] only after `deadline` and [`PATIENCE`].
pub fn run(command: &mut Command, logs: &[&Path], deadline: Instant) -> Result<(), Error> {
    let running = Running::start(command)?;
    let program = running.program.clone();
    let status = running.end(deadline + PATIENCE)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Failed {
            reason: reason(status, logs),
            program,
        }),
    }
}

/// Why a program ended without success.
pub(crate) fn reason(status: ExitStatus, logs: &[&Path]) -> String {
    match last_words(logs) {
        words if words.is_empty() => status.to_string(),
        words => words,
    }
}

/// Waits until there is something to read; false: nothing came until then.
pub(crate) fn readable(fd: BorrowedFd<'_>, until: Instant) -> Result<bool, Error> {
    wait::readable(fd, until).map_err(Error::io("wait for the program that dumps"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_hangs_is_killed_with_all_that_it_has_started() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & wait"]).stdout(writer);
        let running = Running::start(&mut command).unwrap();
        drop(command);
        let hung = running.end(Instant::now() + Duration::from_millis(200));
        assert!(matches!(hung, Err(Error::TimedOut { .. })), "{hung:?}");
        // Ends when nobody has the other end any more.
        reader.read_to_end(&mut Vec::new()).unwrap();
    }
}
