//! The caller's side of a start: begin it, watch its socket, learn how it went.

use crate::error::StartError;
use crate::plan::{ContainerPlan, ExecPlan};
use crate::report::{self, Report, Reporter};
use crate::stage_one::{self, Cgroups};
use crisp_sys::process::{self, Child, SingleThreaded, Spawn, Spawned};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::Poll;

/// Why a start could not even begin: the caller is out of something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make the report socket")]
    Socket(#[source] Errno),
    #[error("find where the process is to be born")]
    Birthplace(#[source] StartError),
    #[error("spawn the first stage")]
    Spawn(#[source] Errno),
}

/// A start under way. Its descriptor is readable when [`Starting::finish`] has news.
///
/// Two children of the caller belong to it and are the caller's to reap: the helper, which always
/// ends soon, and once told the process itself, even when the start fails. A process that is started
/// [alone](ContainerPlan::alone) has no helper, and is there from the beginning. A caller that reaps
/// children it does not know must call `finish` until it is pending before it concludes that an exit
/// is nobody's: the process may have ended already.
#[derive(Debug)]
pub struct Starting {
    socket: OwnedFd,
    helper: Option<Spawned>,
    process: Option<Spawned>,
    terminal: Option<OwnedFd>,
    poststop_hooks: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SettingUp,
    /// Only the execution can fail.
    Ready,
}

/// A process that executes what it was asked to. It may have ended since.
#[derive(Debug)]
pub struct Started {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// Begins to start a container. Returns at once; whatever can wait or fail is done by the children.
///
/// # Errors
/// When no child can be made.
pub fn start(plan: ContainerPlan<'_>, witness: &SingleThreaded) -> Result<Starting, Error> {
    if plan.alone {
        return start_alone(plan, witness);
    }
    begin(witness, |reporter, child| {
        stage_one::start(plan, reporter, child).map(|never| match never {})
    })
}

fn start_alone(plan: ContainerPlan<'_>, witness: &SingleThreaded) -> Result<Starting, Error> {
    let cgroup = Cgroups::unified(plan.cgroup_dirs).map_err(Error::Birthplace)?;
    let options = Spawn {
        namespaces: Some(CloneFlags::CLONE_NEWPID),
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        ..Spawn::default()
    };
    let (socket, process) = fork(&options, witness, |reporter, child| {
        stage_one::start_alone(plan, reporter, child).map(|never| match never {})
    })?;
    Ok(Starting::new(socket, None, Some(process)))
}

/// Begins to execute one more process in a container, like [`start`].
///
/// # Errors
/// When no child can be made.
pub fn exec(plan: ExecPlan<'_>, witness: &SingleThreaded) -> Result<Starting, Error> {
    let cgroup = Cgroups::birthplace(plan.cgroup_dirs, plan.init).map_err(Error::Birthplace)?;
    let options = Spawn {
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        ..Spawn::default()
    };
    let (socket, helper) = fork(&options, witness, |reporter, child| {
        stage_one::exec(plan, reporter, child).map(|never| match never {})
    })?;
    Ok(Starting::new(socket, Some(helper), None))
}

pub(crate) fn begin(
    witness: &SingleThreaded,
    helper: impl FnOnce(&Reporter, &Child) -> Result<(), StartError>,
) -> Result<Starting, Error> {
    let (socket, helper) = fork(&Spawn::default(), witness, helper)?;
    Ok(Starting::new(socket, Some(helper), None))
}

/// A child that reports by the socket.
fn fork(
    options: &Spawn<'_>,
    witness: &SingleThreaded,
    body: impl FnOnce(&Reporter, &Child) -> Result<(), StartError>,
) -> Result<(OwnedFd, Spawned), Error> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(Error::Socket)?;
    let reporter = Reporter(theirs);
    let child = process::spawn(options, witness, |child| {
        conclude(body(&reporter, child), &reporter)
    })
    .map_err(Error::Spawn)?;
    Ok((ours, child))
}

/// The exit status of a stage, whose failure it reports; when nobody listens any more, nobody minds.
pub(crate) fn conclude(result: Result<(), StartError>, reporter: &Reporter) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            let _ = reporter.failed(&error);
            1
        }
    }
}

impl Starting {
    fn new(socket: OwnedFd, helper: Option<Spawned>, process: Option<Spawned>) -> Self {
        Self {
            socket,
            helper,
            process,
            terminal: None,
            poststop_hooks: false,
            phase: Phase::SettingUp,
        }
    }

    /// The child that does the first stage's work for another one, for a caller that keeps books of its children.
    #[must_use]
    pub fn helper(&self) -> Option<Pid> {
        self.helper.as_ref().map(|spawned| spawned.pid)
    }

    /// The process itself, as soon as it is known to exist.
    #[must_use]
    pub fn process(&self) -> Option<Pid> {
        self.process.as_ref().map(|spawned| spawned.pid)
    }

    /// Whether [`poststop`](crate::poststop) is to be called when the container has ended, even one
    /// that did not start.
    #[must_use]
    pub fn has_poststop_hooks(&self) -> bool {
        self.poststop_hooks
    }

    /// How it went, once that is known. Never waits. After anything but pending the start is over
    /// and its descriptor has nothing more to say.
    ///
    /// # Errors
    /// Why the process did not start. What there is of it has ended or is killed.
    pub fn finish(&mut self) -> Poll<Result<Started, StartError>> {
        loop {
            match report::next(self.socket.as_fd()) {
                Ok(Report::Spawned(spawned)) => self.process = Some(spawned),
                Ok(Report::PoststopHooks) => self.poststop_hooks = true,
                Ok(Report::Terminal(master)) => self.terminal = Some(master),
                Ok(Report::Ready) => self.phase = Phase::Ready,
                Ok(Report::Failed(error)) => return Poll::Ready(Err(self.fail(error))),
                Ok(Report::End) => return Poll::Ready(self.conclude()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(self.fail(StartError::Died))),
            }
        }
    }

    fn conclude(&mut self) -> Result<Started, StartError> {
        match (self.phase, self.process.take()) {
            (Phase::Ready, Some(Spawned { pid, pidfd })) => Ok(Started {
                pid,
                pidfd,
                terminal: self.terminal.take(),
            }),
            _ => Err(self.fail(StartError::Died)),
        }
    }

    fn fail(&mut self, error: StartError) -> StartError {
        self.kill();
        error
    }

    /// Gives up and kills what there is, after which [`Self::has_poststop_hooks`] holds. A second stage
    /// that is not known yet ends by itself: it executes nothing when it cannot report.
    pub fn abandon(&mut self) {
        // From here on nothing can be reported; what was before can still be read. It cannot fail.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
        loop {
            match report::next(self.socket.as_fd()) {
                Ok(Report::Spawned(spawned)) => self.process = Some(spawned),
                Ok(Report::PoststopHooks) => self.poststop_hooks = true,
                Ok(Report::Ready) => self.phase = Phase::Ready,
                Ok(Report::End) | Err(_) => break,
                Ok(Report::Terminal(_) | Report::Failed(_)) => {}
            }
        }
        // A process that is ready and not known yet is killed by the helper, which cannot tell of it.
        if self.phase != Phase::Ready || self.process.is_some() {
            self.kill();
        }
    }

    fn kill(&self) {
        for child in self.helper.iter().chain(&self.process) {
            process::kill(&child.pidfd);
        }
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
