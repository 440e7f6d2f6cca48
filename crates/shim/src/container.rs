//! A container: its first process, its streams, its cgroup.

use crate::cgroup::Cgroup;
use crate::connection::{Answer, ReplyTo, Waiters};
use crate::failure::RequestError;
use crate::journal::journal;
use crate::log::Log;
use crate::poller::{Event, Interest, Key, Poller, Watched};
use crate::poststop::Poststop;
use crate::scratch::Scratch;
use crate::stdin::Lifetime;
use crate::stdio::{Input, Stdio};
use crisp_crash::point;
use crisp_runtime::{
    CommandLine, ContainerPlan, Overlay, Rootfs, SeccompFilter, StartError, Started, Starting,
    WindowSize,
};
use crisp_shim_api::message::{ContainerStarted, Exit, Process, StartContainer, reply};
use crisp_shim_api::timestamp::unix_ns;
use crisp_shim_api::{PodPaths, is_valid_id};
use crisp_sys::process::{ExitStatus, SingleThreaded, kill};
use nix::unistd::Pid;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

/// How long what is left in an ended container's cgroup may take to die before the exit is told all
/// the same: a process in uninterruptible sleep may never.
const MAX_KILL_WAIT: Duration = Duration::from_secs(5);

/// The time between two tries to kill what is left.
const KILL_INTERVAL: Duration = Duration::from_millis(5);

/// A container, from the start of its first process until the daemon has it removed.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) cgroup: Cgroup,
    pub(crate) stdio: Stdio,
    input: Input,
    bundle: PathBuf,
    poststop: Poststop,
    /// None: the embedded runtime.
    pub(crate) command_line: Option<CommandLine>,
    pub(crate) state: State,
}

/// Where a container is in its life.
///
/// ```text
/// Starting ── executed ──▶ Running ── init reaped ──▶ Ending ── cgroup empty ──▶ Ended
///    └────── failed ─────▶ (forgotten)                  │                          ▲
///                            something is to be run     └──▶ Poststop ── it ended ─┘
/// ```
#[derive(Debug)]
pub(crate) enum State {
    Starting {
        start: Watched<Starting>,
        waiters: Waiters,
    },
    Running(Running),
    /// Its first process has ended; what else there is in its cgroup is being killed.
    Ending(Ending),
    /// What is to be run when it has ended is run by a child.
    Poststop {
        started_at_ns: i64,
        exit: Exit,
        child: Pid,
    },
    Ended {
        started_at_ns: i64,
        exit: Exit,
    },
}

/// The first process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) started_at_ns: i64,
}

#[derive(Debug)]
pub(crate) struct Ending {
    started_at_ns: i64,
    exit: Exit,
    next_kill: Instant,
    deadline: Instant,
}

/// What a container has of its pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodParts<'a> {
    pub(crate) paths: &'a PodPaths,
    pub(crate) shm: Option<BorrowedFd<'a>>,
    /// The pause process.
    pub(crate) pause: BorrowedFd<'a>,
}

impl Container {
    /// Begins to start a container. Waits for nothing. `root` is its root file system, if that comes with the
    /// request.
    pub(crate) fn begin(
        key: Key,
        request: &StartContainer,
        root: Option<BorrowedFd<'_>>,
        pod: PodParts<'_>,
        reply_to: ReplyTo,
        poller: &Poller,
        witness: &SingleThreaded,
    ) -> Result<Self, RequestError> {
        check(request)?;
        let log = Log::open(&request.log_path).map_err(RequestError::internal("open the log"))?;
        let mut stdio = Stdio::new(poller, key, log);
        let input = match (request.stdin, request.stdin_once) {
            (false, _) => Input::None,
            (true, false) => Input::Until(Lifetime::Container),
            (true, true) => Input::Until(Lifetime::FirstClient),
        };
        let runtime_stdio = if request.terminal {
            crisp_runtime::Stdio::Terminal(WindowSize::default())
        } else {
            let pipes = stdio.open_pipes(input);
            crisp_runtime::Stdio::Pipes(pipes.map_err(RequestError::internal("make pipes"))?)
        };
        let cgroup = Cgroup::new(request.cgroup_dirs.iter().map(PathBuf::from).collect());
        let layers: Vec<PathBuf> = layers(request);
        let plan = ContainerPlan {
            id: &request.container_id,
            bundle: Path::new(&request.bundle_dir),
            rootfs: root.map_or_else(|| rootfs(request, &layers), Rootfs::Mounted),
            cgroup_dirs: cgroup.dirs(),
            stdio: runtime_stdio,
            seccomp: SeccompFilter {
                program: &request.seccomp_filter,
                flags: request.seccomp_flags,
            },
            shm: pod.shm,
            mounts_from: Some(pod.pause),
            alone: request.alone,
        };
        let command_line = command_line(request, pod.paths);
        let start = match &command_line {
            None => crisp_runtime::start(plan, witness),
            Some(runtime) => runtime.start(plan, witness),
        }
        .map_err(RequestError::internal("start the container"))?;
        let start = poller
            .watch(start, Event::ContainerReport(key), Interest::Read)
            .map_err(RequestError::internal("watch the start of the container"))?;
        Ok(Self {
            id: request.container_id.clone(),
            cgroup,
            stdio,
            input,
            bundle: request.bundle_dir.clone().into(),
            poststop: match &command_line {
                Some(line) => Poststop::Delete(line.clone()),
                None => Poststop::Nothing,
            },
            command_line,
            state: State::Starting {
                start,
                waiters: Waiters::new(reply_to),
            },
        })
    }

    /// One more asks for a start: it waits for the outcome of the one that is under way, or is told how
    /// that went, whatever has become of the container since.
    pub(crate) fn join_start(&mut self, to: ReplyTo) -> Result<Option<Answer>, RequestError> {
        if let State::Starting { waiters, .. } = &mut self.state {
            waiters.join(to)?;
        }
        Ok(self.describe().map(|process| started(&process).into()))
    }

    /// How the start went, once that is known, and who asked. A container whose start failed is to be
    /// forgotten.
    pub(crate) fn finish_start(&mut self) -> Poll<(Waiters, Result<Pid, StartError>)> {
        let State::Starting { start, waiters } = &mut self.state else {
            return Poll::Pending;
        };
        let Poll::Ready(result) = start.get_mut().finish() else {
            return Poll::Pending;
        };
        if start.get_mut().has_poststop_hooks() {
            self.poststop = Poststop::Hooks(self.bundle.clone());
        }
        let waiters = waiters.clone();
        Poll::Ready((
            waiters,
            result.and_then(|started| self.set_running(started)),
        ))
    }

    fn set_running(&mut self, started: Started) -> Result<Pid, StartError> {
        let Started {
            pid,
            pidfd,
            terminal,
        } = started;
        if let Some(master) = terminal
            && let Err(errno) = self.stdio.open_terminal(master, self.input)
        {
            kill(&pidfd);
            let step = "watch the terminal".to_owned();
            return Err(StartError::Io {
                step,
                path: PathBuf::new(),
                errno,
            });
        }
        let started_at_ns = unix_ns(SystemTime::now());
        self.state = State::Running(Running {
            pid,
            pidfd,
            started_at_ns,
        });
        Ok(pid)
    }

    /// The first process, while it runs.
    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// The first process, or why there is none.
    pub(crate) fn require_running(&self) -> Result<&Running, RequestError> {
        self.running().ok_or_else(|| RequestError::NotRunning {
            what: "container",
            id: self.id.clone(),
        })
    }

    /// Its first process was reaped. [`Container::try_end`] does what is left to do.
    pub(crate) fn init_ended(&mut self, status: ExitStatus) {
        let State::Running(running) = &self.state else {
            return;
        };
        let mut exit = exit_of(status, running.pid);
        exit.container_id.clone_from(&self.id);
        let now = Instant::now();
        self.state = State::Ending(Ending {
            started_at_ns: running.started_at_ns,
            exit,
            next_kill: now,
            deadline: now + MAX_KILL_WAIT,
        });
    }

    /// When there is something to do for a container that is ending.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Ending(ending) => Some(ending.next_kill),
            _ => None,
        }
    }

    /// Goes on with ending a container: kills what is left in its cgroup; when nothing is, reads the rest of
    /// its output, and begins what is to be run then. When nothing of it is left, says how it ended.
    pub(crate) fn try_end(
        &mut self,
        scratch: &mut Scratch,
        witness: &SingleThreaded,
    ) -> Option<Exit> {
        let State::Ending(ending) = &mut self.state else {
            return None;
        };
        let now = Instant::now();
        if !self.cgroup.kill() && now < ending.deadline {
            ending.next_kill = now + KILL_INTERVAL;
            return None;
        }
        point!("shim.container-killed");
        self.stdio.finish(scratch);
        // Before a runtime may remove the cgroup.
        ending.exit.oom_killed = self.cgroup.was_oom_killed();
        let (started_at_ns, exit) = (ending.started_at_ns, ending.exit.clone());
        match self.poststop.begin(&self.id, witness) {
            None => Some(self.set_ended(started_at_ns, exit)),
            Some(child) => {
                self.state = State::Poststop {
                    started_at_ns,
                    exit,
                    child,
                };
                None
            }
        }
    }

    /// A child of the shim has ended: if it was the one that ran what is to be run last, says how the
    /// container ended.
    pub(crate) fn poststop_ended(&mut self, pid: Pid) -> Option<Exit> {
        match &self.state {
            State::Poststop {
                started_at_ns,
                exit,
                child,
            } if *child == pid => Some(self.set_ended(*started_at_ns, exit.clone())),
            _ => None,
        }
    }

    /// Kills what there is of a start that is under way, and gives who waits for it. For what is run then
    /// nobody waits.
    pub(crate) fn abandon_start(&mut self, witness: &SingleThreaded) -> Option<Waiters> {
        let State::Starting { start, waiters } = &mut self.state else {
            return None;
        };
        let start = start.get_mut();
        start.abandon();
        // Also what was made and not told of.
        self.cgroup.kill();
        if let Some(process) = start.process()
            && let Err(error) = self.cgroup.expel(process)
        {
            journal!(
                "container {}: {process} stays in its cgroup: {error}",
                self.id
            );
        }
        if start.has_poststop_hooks() {
            self.poststop = Poststop::Hooks(self.bundle.clone());
        }
        self.poststop.begin(&self.id, witness);
        Some(waiters.clone())
    }

    /// Of a container that has failed to start, nobody waits for the hooks: there is no end of it to tell.
    pub(crate) fn begin_poststop_unheard(&self, witness: &SingleThreaded) {
        if let Poststop::Hooks(_) = self.poststop {
            self.poststop.begin(&self.id, witness);
        }
    }

    fn set_ended(&mut self, started_at_ns: i64, exit: Exit) -> Exit {
        self.state = State::Ended {
            started_at_ns,
            exit: exit.clone(),
        };
        exit
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// Whether nothing of it is left but how it ended.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// As the daemon lists it. One whose start is not over yet is not listed.
    pub(crate) fn describe(&self) -> Option<Process> {
        let (pid, started_at_ns, exit) = match &self.state {
            State::Starting { .. } => return None,
            State::Running(running) => (
                running.pid.as_raw().cast_unsigned(),
                running.started_at_ns,
                None,
            ),
            State::Ending(ending) => (ending.exit.pid, ending.started_at_ns, None),
            State::Poststop {
                started_at_ns,
                exit,
                ..
            } => (exit.pid, *started_at_ns, None),
            State::Ended {
                started_at_ns,
                exit,
            } => (exit.pid, *started_at_ns, Some(exit.clone())),
        };
        Some(Process {
            container_id: self.id.clone(),
            pid,
            started_at_ns,
            exit,
        })
    }
}

/// What who asked for the start is told.
pub(crate) fn started(process: &Process) -> reply::Body {
    reply::Body::ContainerStarted(ContainerStarted {
        pid: process.pid,
        started_at_ns: process.started_at_ns,
    })
}

/// The part of an exit that the kernel tells.
pub(crate) fn exit_of(status: ExitStatus, pid: Pid) -> Exit {
    let (code, signal) = match status {
        ExitStatus::Exited(code) => (code, 0),
        ExitStatus::Killed(signal) => (0, signal),
    };
    Exit {
        code,
        signal,
        finished_at_ns: unix_ns(SystemTime::now()),
        pid: pid.as_raw().cast_unsigned(),
        ..Exit::default()
    }
}

fn command_line(request: &StartContainer, paths: &PodPaths) -> Option<CommandLine> {
    let runtime = request.runtime.as_ref()?;
    Some(CommandLine {
        program: PathBuf::from(&runtime.program),
        arguments: runtime.arguments.clone(),
        state_dir: paths.oci_state(),
        id: request.container_id.clone(),
        bundle: PathBuf::from(&request.bundle_dir),
    })
}

fn check(request: &StartContainer) -> Result<(), RequestError> {
    if !is_valid_id(&request.container_id) {
        return Err(RequestError::Invalid("container_id: not an id".to_owned()));
    }
    let program = request.runtime.as_ref().map(|runtime| &runtime.program);
    let paths = [
        ("bundle_dir", Some(&request.bundle_dir)),
        (
            "log_path",
            Some(&request.log_path).filter(|p| !p.is_empty()),
        ),
        ("runtime.program", program),
    ];
    for (field, path) in paths {
        if let Some(path) = path.filter(|path| !path.starts_with('/')) {
            return Err(RequestError::Invalid(format!(
                "{field}: {path:?} is not absolute"
            )));
        }
    }
    Ok(())
}

fn layers(request: &StartContainer) -> Vec<PathBuf> {
    let layers = request
        .rootfs
        .iter()
        .flat_map(|overlay| &overlay.lower_dirs);
    layers.map(PathBuf::from).collect()
}

fn rootfs<'r>(request: &'r StartContainer, lower_dirs: &'r [PathBuf]) -> Rootfs<'r> {
    match &request.rootfs {
        None => Rootfs::Directory,
        Some(overlay) => Rootfs::Overlay(Overlay {
            lower_dirs,
            upper_dir: Path::new(&overlay.upper_dir),
            work_dir: Path::new(&overlay.work_dir),
        }),
    }
}
