//! One more process in a container. Its streams lead to the daemon, past the shim.

use crate::connection::ReplyTo;
use crate::container::{Container, exit_of};
use crate::descendants::kill_descendants;
use crate::failure::RequestError;
use crate::poller::{Event, Interest, Key, Poller, Watched};
use crate::stdio::{duplicate, open_null, pipe};
use crisp_runtime::{ExecPlan, SeccompFilter, StartError, Started, Starting, WindowSize};
use crisp_shim_api::is_valid_id;
use crisp_shim_api::message::{self, Exit};
use crisp_sys::process::{ExitStatus, SingleThreaded, kill};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, write};
use oci_spec::runtime::Process;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The longest description of a process, environment included.
const MAX_PROCESS_BYTES: u64 = 4 * 1024 * 1024;

/// After the timeout, what is left is killed this often, for it may be forking.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// A process that was executed in a container, until it is reaped.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) container: Key,
    /// Its container may be forgotten before it is reaped.
    container_id: String,
    pub(crate) state: State,
    /// The master, kept for its size, and so that the terminal outlives the daemon.
    terminal: Option<OwnedFd>,
    deadline: Option<Instant>,
    timed_out: bool,
}

#[derive(Debug)]
pub(crate) enum State {
    Starting {
        start: Watched<Starting>,
        reply_to: ReplyTo,
        /// The daemon's ends of the streams.
        fds: Vec<OwnedFd>,
    },
    Running {
        pid: Pid,
        pidfd: OwnedFd,
    },
}

/// An exec that runs: its pid, and the descriptors for the daemon.
#[derive(Debug)]
pub(crate) struct ExecStarted {
    pub(crate) pid: Pid,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Exec {
    /// Begins to execute a process in a container that runs. Waits for nothing.
    pub(crate) fn begin(
        key: Key,
        request: &message::Exec,
        fds: Vec<OwnedFd>,
        container: (Key, &Container),
        reply_to: ReplyTo,
        poller: &Poller,
        witness: &SingleThreaded,
    ) -> Result<Self, RequestError> {
        let (container_key, container) = container;
        if !is_valid_id(&request.exec_id) {
            return Err(RequestError::Invalid("exec_id: not an id".to_owned()));
        }
        let init = container.require_running()?;
        let process = parse_process(request, fds)?;
        let (stdio, fds) = streams(request).map_err(RequestError::internal("make pipes"))?;
        let plan = ExecPlan {
            init: init.pid,
            init_pidfd: init.pidfd.as_fd(),
            process: &process,
            cgroup_dirs: container.cgroup.dirs(),
            stdio,
            seccomp: SeccompFilter {
                program: &request.seccomp_filter,
                flags: request.seccomp_flags,
            },
        };
        let start = match &container.command_line {
            None => crisp_runtime::exec(plan, witness),
            Some(runtime) => runtime.exec(plan, witness),
        }
        .map_err(RequestError::internal("execute the process"))?;
        let start = poller
            .watch(start, Event::ExecReport(key), Interest::Read)
            .map_err(RequestError::internal("watch the execution"))?;
        let timeout = Duration::from_millis(request.timeout_ms);
        Ok(Self {
            id: request.exec_id.clone(),
            container: container_key,
            container_id: container.id.clone(),
            state: State::Starting {
                start,
                reply_to,
                fds,
            },
            terminal: None,
            deadline: (!timeout.is_zero()).then(|| Instant::now() + timeout),
            timed_out: false,
        })
    }

    /// How the start went, once that is known, and who asked. One that failed is to be forgotten.
    pub(crate) fn finish_start(&mut self) -> Poll<(ReplyTo, Result<ExecStarted, StartError>)> {
        let State::Starting {
            start,
            reply_to,
            fds,
        } = &mut self.state
        else {
            return Poll::Pending;
        };
        let Poll::Ready(result) = start.get_mut().finish() else {
            return Poll::Pending;
        };
        let (reply_to, mut fds) = (*reply_to, std::mem::take(fds));
        let started = result.and_then(
            |Started {
                 pid,
                 pidfd,
                 terminal,
             }| {
                if let Some(master) = terminal {
                    fds.push(duplicate(&master).map_err(|errno| {
                        kill(&pidfd);
                        let step = "duplicate the terminal".to_owned();
                        StartError::Io {
                            step,
                            path: PathBuf::new(),
                            errno,
                        }
                    })?);
                    self.terminal = Some(master);
                }
                self.state = State::Running { pid, pidfd };
                Ok(ExecStarted { pid, fds })
            },
        );
        Poll::Ready((reply_to, started))
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        match &self.state {
            State::Starting { .. } => None,
            State::Running { pid, .. } => Some(*pid),
        }
    }

    /// The process, or why there is none.
    pub(crate) fn require_running(&self) -> Result<&OwnedFd, RequestError> {
        match &self.state {
            State::Running { pidfd, .. } => Ok(pidfd),
            State::Starting { .. } => Err(RequestError::NotRunning {
                what: "exec",
                id: self.id.clone(),
            }),
        }
    }

    pub(crate) fn terminal(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref()
    }

    /// Ends the input of its terminal. A pipe the daemon closes by itself.
    pub(crate) fn close_stdin(&self) -> Result<(), Errno> {
        match &self.terminal {
            Some(master) => write(master, crate::stdin::END_OF_TRANSMISSION).map(drop),
            None => Ok(()),
        }
    }

    /// When its time is up, or it is to be killed again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Kills it and all it has started, when its time is up.
    pub(crate) fn enforce_timeout(&mut self, container: Option<&Container>, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.timed_out = true;
        if let State::Running { pid, pidfd } = &self.state {
            if let Some(container) = container {
                kill_descendants(&container.cgroup, *pid);
            }
            kill(pidfd);
        }
        // That may have taken longer: the rest of the pod has its turn before the next attempt.
        self.deadline = Some(Instant::now() + KILL_INTERVAL);
    }

    /// It was reaped.
    pub(crate) fn ended(self, status: ExitStatus, pid: Pid, container: Option<&Container>) -> Exit {
        if let Some(container) = container
            && self.timed_out
        {
            kill_descendants(&container.cgroup, pid);
        }
        Exit {
            container_id: self.container_id,
            exec_id: self.id,
            timed_out: self.timed_out,
            ..exit_of(status, pid)
        }
    }
}

/// The process to execute, from the packet or from the file beside it.
fn parse_process(request: &message::Exec, fds: Vec<OwnedFd>) -> Result<Process, RequestError> {
    let invalid = |why: String| RequestError::Invalid(format!("process_json: {why}"));
    let parsed = match fds.into_iter().next() {
        None => serde_json::from_slice(&request.process_json),
        Some(file) => {
            let text = read_file(file).map_err(|error| invalid(error.to_string()))?;
            serde_json::from_slice(&text)
        }
    };
    parsed.map_err(|error| invalid(error.to_string()))
}

/// Only what cannot make the shim wait: a regular file, such as a memfd.
fn read_file(file: OwnedFd) -> std::io::Result<Vec<u8>> {
    let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFREG {
        return Err(Errno::EINVAL.into());
    }
    let mut file = File::from(file);
    file.rewind()?;
    let mut text = Vec::new();
    file.take(MAX_PROCESS_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// The streams of the process, and the daemon's ends of them.
fn streams(request: &message::Exec) -> nix::Result<(crisp_runtime::Stdio, Vec<OwnedFd>)> {
    if request.terminal {
        let terminal = crisp_runtime::Stdio::Terminal(WindowSize::default());
        return Ok((terminal, Vec::new()));
    }
    let mut daemons = Vec::new();
    let stdin = if request.stdin {
        let (theirs, daemon) = pipe()?;
        daemons.push(daemon);
        theirs
    } else {
        open_null()?
    };
    let (daemon_stdout, stdout) = pipe()?;
    let (daemon_stderr, stderr) = pipe()?;
    daemons.extend([daemon_stdout, daemon_stderr]);
    Ok((
        crisp_runtime::Stdio::Pipes([stdin, stdout, stderr]),
        daemons,
    ))
}
