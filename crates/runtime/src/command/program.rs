//! Running the runtime's program, for a bounded time.

use super::{CommandLine, complaint};
use crate::error::{Context, StartError};
use crate::plan::Stdio;
use crate::report::Reporter;
use crate::spec::c_path;
use crisp_sys::process::{
    Child, ExitStatus, Spawn, Spawned, StdioNumber, close_on_exec, install_stdio, kill, pidfd_open,
    reset_signals, spawn, try_reap,
};
use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Pid, access, execve};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Where the runtime writes the pid of what it has made, in the workspace.
pub(super) const PID_FILE: &str = "pid";
/// Where it says what went wrong, in the workspace.
pub(super) const LOG_FILE: &str = "log.json";

/// How long one command may take, hooks included. All those of a start together take less than a daemon
/// waits for a shim.
const MAX_COMMAND_TIME: Duration = Duration::from_secs(18);

/// The exit status of a child that could not execute the program, as shells have it.
const NOT_EXECUTED: u8 = 127;

/// What runtimes and their hooks find programs by; nothing else is handed down.
const ENVIRONMENT: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program, ready to be run in the workspace.
#[derive(Debug)]
pub(super) struct Program<'a> {
    line: &'a CommandLine,
    bundle: String,
    null: OwnedFd,
    log: Log,
}

/// Where the runtime's complaints go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    Workspace,
    StandardError,
}

/// The standard descriptors of a command, which `create` and `exec` pass on to the process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Streams<'a> {
    None,
    Pipes(&'a [OwnedFd; 3]),
}

impl<'a> Streams<'a> {
    /// A terminal's process gets its own.
    pub(super) fn of(stdio: &'a Stdio) -> Self {
        match stdio {
            Stdio::Pipes(pipes) => Self::Pipes(pipes),
            Stdio::Terminal(_) => Self::None,
        }
    }
}

impl<'a> Program<'a> {
    pub(super) fn new(line: &'a CommandLine) -> Result<Self, StartError> {
        Self::logging(line, Log::Workspace)
    }

    fn logging(line: &'a CommandLine, log: Log) -> Result<Self, StartError> {
        access(&line.program, AccessFlags::X_OK).step("execute the runtime", &line.program)?;
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let null = open("/dev/null", flags, Mode::empty()).step("open", "/dev/null")?;
        let bundle = line.bundle.display().to_string();
        Ok(Self {
            line,
            bundle,
            null,
            log,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.line.id
    }

    pub(super) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Runs one command to its end.
    pub(super) fn run(
        &self,
        arguments: &[&str],
        streams: Streams<'_>,
        child: &Child,
    ) -> Result<(), StartError> {
        let command = arguments.first().copied().unwrap_or_default();
        let refused = |message: String| StartError::Refused {
            program: self.line.program.clone(),
            message: format!("{command}: {message}"),
        };
        let argv = self.argv(arguments)?;
        let path = c_path(self.line.program.clone());
        let process = spawn(&Spawn::default(), child.witness(), |_| {
            self.execute(&path, &argv, streams)
        })
        .step("spawn the runtime", "")?;
        match wait(&process)? {
            Some(ExitStatus::Exited(0)) => Ok(()),
            Some(status) => Err(refused(complaint::last_error(status))),
            None => Err(refused(format!(
                "did not end within {MAX_COMMAND_TIME:?} and was killed"
            ))),
        }
    }

    fn argv(&self, arguments: &[&str]) -> Result<Vec<CString>, StartError> {
        let state_dir = self.line.state_dir.display().to_string();
        let mut all = vec![self.line.program.display().to_string()];
        all.extend(self.line.arguments.iter().cloned());
        all.extend(["--root".to_owned(), state_dir]);
        if self.log == Log::Workspace {
            all.extend(["--log", LOG_FILE, "--log-format", "json"].map(str::to_owned));
        }
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let all = all.into_iter().map(|argument| {
            CString::new(argument)
                .map_err(|_| StartError::invalid("an argument of the runtime has a zero byte"))
        });
        all.collect()
    }

    /// In the child: becomes the runtime, with nothing of the caller's but its streams.
    fn execute(&self, path: &CStr, argv: &[CString], streams: Streams<'_>) -> u8 {
        let executed = self.install(streams).and_then(|()| {
            reset_signals();
            set_pdeathsig(Signal::SIGKILL)?;
            close_on_exec()?;
            execve(path, argv, &[ENVIRONMENT])
        });
        match executed {
            Ok(never) => match never {},
            Err(_) => NOT_EXECUTED,
        }
    }

    fn install(&self, streams: Streams<'_>) -> nix::Result<()> {
        let null = self.null.as_fd();
        let [input, output, error] = match streams {
            Streams::Pipes(pipes) => pipes.each_ref().map(|fd| Some(fd.as_fd())),
            Streams::None if self.log == Log::StandardError => [Some(null), Some(null), None],
            Streams::None => [Some(null); 3],
        };
        let standard = [
            (input, StdioNumber::Input),
            (output, StdioNumber::Output),
            (error, StdioNumber::Error),
        ];
        for (fd, number) in standard {
            if let Some(fd) = fd {
                install_stdio(fd, number)?;
            }
        }
        Ok(())
    }
}

/// Has the runtime forget the container, running or not.
pub(super) fn delete(line: &CommandLine, child: &Child) -> Result<(), StartError> {
    let program = Program::logging(line, Log::StandardError)?;
    program.run(&["delete", "--force", &line.id], Streams::None, child)
}

/// Reports the process that the runtime has left, which is the helper's child by now.
pub(super) fn adopt(reporter: &Reporter) -> Result<(), StartError> {
    let text = std::fs::read_to_string(PID_FILE).step("read", PID_FILE)?;
    let pid = text.trim().parse().map(Pid::from_raw);
    let pid =
        pid.map_err(|_| StartError::invalid(format!("the runtime wrote the pid {text:?}")))?;
    let pidfd = pidfd_open(pid).step("open the process", "")?;
    reporter.spawned(&Spawned { pid, pidfd }).step("report", "")
}

/// How a command ended; none: it took too long, and was killed.
fn wait(process: &Spawned) -> Result<Option<ExitStatus>, StartError> {
    let pidfd = process.pidfd.as_fd();
    let in_time = readable(pidfd, MAX_COMMAND_TIME)?;
    if !in_time {
        kill(pidfd);
        readable(pidfd, MAX_COMMAND_TIME)?;
    }
    let ended = try_reap(Some(pidfd)).step("wait for the runtime", "")?;
    Ok(ended.map(|(_, status)| status).filter(|_| in_time))
}

/// Waits until there is something to read.
pub(super) fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool, StartError> {
    crisp_sys::wait::readable(fd, Instant::now() + timeout).step("wait", "")
}
