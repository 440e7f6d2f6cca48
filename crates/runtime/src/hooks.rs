//! Running hooks: each in a child of its own, which gets the container's state on its standard input,
//! and has a bounded time and a bounded say.
//!
//! ```text
//!  stage one ── spawns before it enters anything ──▶ attendant   in the caller's namespaces
//!  stage two ── C pid: all is mounted ─────────────▶               runs prestart, createRuntime
//!            ◀── D, or F error ────────────────────
//!               runs createContainer, startContainer
//!            ── S: only the execution is left ─────▶
//!            ── end of file ───────────────────────▶               runs poststart, ends
//! ```
//! The attendant waits for nobody but the two, whose end it sees as the end of the socket.

use crate::error::{Context, StartError};
use crate::report::{decode_error, encode};
use crate::spec::{Hook, Hooks, Point, c_path};
use crate::stage_one::{SPEC_FILE, read_spec};
use crisp_sys::process::{
    self, ExitStatus, SingleThreaded, Spawn, Spawned, StdioNumber, close_on_exec, install_stdio,
    reset_signals, try_reap,
};
use crisp_sys::socket::{Wait, receive, send};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, execve, pipe2, read, setsid, write};
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long all hooks of one start may take together, whatever their own times are: somebody waits
/// for the container to start.
const START_TIME_MAX: Duration = Duration::from_secs(50);

/// How long a hook that was killed may take to die.
const DEATH_TIME_MAX_MS: u16 = 1000;

/// What a hook says that goes into an error, in bytes; the rest is read and dropped.
const OUTPUT_MAX: usize = 1024;

/// What a pipe holds (pipe(7)).
const PIPE_BYTES: usize = 64 << 10;

/// The longest packet between attendant and stage two: an error.
const PACKET_MAX: usize = 4096;

/// Exit status of a child that could not execute its hook, as of a shell.
const NOT_EXECUTED: u8 = 126;

/// What hooks are told of their container (OCI runtime spec, "State").
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) id: String,
    pub(crate) bundle: String,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) oci_version: String,
}

impl About {
    /// `pid`: the container's first process in the caller's pid namespace, if there is one.
    fn state(&self, point: Point, pid: Option<Pid>) -> Vec<u8> {
        let mut state = json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": point.status(),
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if let Some(pid) = pid {
            state["pid"] = pid.as_raw().into();
        }
        state.to_string().into_bytes()
    }
}

/// The hooks of a container with what they are told, and until when all of them must have ended.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) hooks: Hooks,
    pub(crate) about: About,
    deadline: Instant,
}

impl Run {
    /// The time of all hooks begins.
    pub(crate) fn new(hooks: Hooks, about: About) -> Self {
        let deadline = Instant::now() + START_TIME_MAX;
        Self {
            hooks,
            about,
            deadline,
        }
    }

    /// Runs the hooks of a point, one after the other. `enter` is what each child does before it
    /// executes.
    pub(crate) fn at(
        &self,
        point: Point,
        pid: Option<Pid>,
        enter: impl Fn() -> Result<(), StartError>,
        witness: &SingleThreaded,
    ) -> Result<(), StartError> {
        for hook in self.hooks.at(point) {
            let state = self.about.state(point, pid);
            let left = self.deadline.saturating_duration_since(Instant::now());
            run(hook, &state, hook.timeout.min(left), &enter, witness)?;
        }
        Ok(())
    }

    /// Runs all hooks of a point at which there is nothing left to fail: what goes wrong is said on
    /// standard error (OCI runtime spec, "Lifecycle").
    fn all_at(&self, point: Point, pid: Option<Pid>, witness: &SingleThreaded) {
        let state = self.about.state(point, pid);
        for hook in self.hooks.at(point) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let done = run(hook, &state, hook.timeout.min(left), || Ok(()), witness);
            if let Err(error) = done {
                complain(&self.about.id, &error);
            }
        }
    }
}

/// Runs one hook and waits for its end.
fn run(
    hook: &Hook,
    state: &[u8],
    time: Duration,
    enter: impl Fn() -> Result<(), StartError>,
    witness: &SingleThreaded,
) -> Result<(), StartError> {
    let failed = |why: String| StartError::Hook {
        path: hook.path.clone(),
        reason: format!("{}: {why}", hook.point.name()),
    };
    // Not a pipe, which a hook that does not read would fill up.
    let input = in_memory(state).step("make a memory file", "")?;
    let (output, theirs) = pipe2(OFlag::O_CLOEXEC).step("make a pipe", "")?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).step("set up a pipe", "")?;
    let spawned = process::spawn(&Spawn::default(), witness, |_| {
        let Err(error) = become_hook(hook, input.as_fd(), theirs.as_fd(), &enter);
        let _ = write(&theirs, error.to_string().as_bytes());
        NOT_EXECUTED
    })
    .step("spawn a hook", "")?;
    drop(theirs);
    let mut said = Vec::new();
    let status = wait(&spawned, &output, Instant::now() + time, &mut said)?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match status {
        Some(ExitStatus::Exited(0)) => Ok(()),
        Some(ExitStatus::Exited(code)) => Err(failed(format!("exited with {code}: {said}"))),
        Some(ExitStatus::Killed(signal)) => {
            Err(failed(format!("was ended by signal {signal}: {said}")))
        }
        None => Err(failed(format!("did not end within {} s", time.as_secs()))),
    }
}

fn in_memory(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// What the child does. Returns only on failure.
fn become_hook(
    hook: &Hook,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    enter: impl Fn() -> Result<(), StartError>,
) -> Result<Infallible, StartError> {
    setsid().step("start a session", "")?;
    install_stdio(input, StdioNumber::Input).step("set up standard input", "")?;
    install_stdio(output, StdioNumber::Output).step("set up standard output", "")?;
    install_stdio(output, StdioNumber::Error).step("set up standard error", "")?;
    reset_signals();
    close_on_exec().step("keep the caller's files from the hook", "")?;
    let path = c_path(hook.path.clone());
    enter()?;
    execve(&path, &hook.arguments, &hook.environment).step("execute", &hook.path)
}

/// How a child ended; none: the time is up, and it is killed.
fn wait(
    child: &Spawned,
    output: &OwnedFd,
    deadline: Instant,
    said: &mut Vec<u8>,
) -> Result<Option<ExitStatus>, StartError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
        ];
        // A pipe that nobody holds open any more is always ready, and has nothing to say.
        let watched = match drain(output, said) {
            Pipe::Open => 2,
            Pipe::Closed => 1,
        };
        match poll(&mut fds[..watched], timeout) {
            Ok(0) => break,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).step("wait for a hook", ""),
        }
        if let Some((_, status)) =
            try_reap(Some(child.pidfd.as_fd())).step("wait for a hook", "")?
        {
            drain(output, said);
            return Ok(Some(status));
        }
    }
    kill(child);
    Ok(None)
}

/// Kills a child with all that is in its session, and reaps it unless even that takes too long.
fn kill(child: &Spawned) {
    let _ = killpg(child.pid, Signal::SIGKILL);
    process::kill(&child.pidfd);
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(DEATH_TIME_MAX_MS));
    let _ = try_reap(Some(child.pidfd.as_fd()));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipe {
    Open,
    Closed,
}

/// Reads what there is, at most as much as a pipe holds, and keeps the beginning of all.
fn drain(output: &OwnedFd, said: &mut Vec<u8>) -> Pipe {
    let mut buffer = [0; 4096];
    for _ in 0..PIPE_BYTES / buffer.len() {
        match read(output, &mut buffer) {
            Ok(0) => return Pipe::Closed,
            Ok(bytes) => {
                let room = OUTPUT_MAX.saturating_sub(said.len());
                said.extend(&buffer[..bytes.min(room)]);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return Pipe::Open,
        }
    }
    Pipe::Open
}

/// Stage two's end of the socket to the attendant.
#[derive(Debug)]
pub(crate) struct Attendant(OwnedFd);

impl Attendant {
    /// Spawns the attendant, in the caller's namespaces.
    pub(crate) fn spawn(run: &Run, witness: &SingleThreaded) -> Result<Self, StartError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .step("make a socket", "")?;
        process::spawn(&Spawn::default(), witness, |child| {
            let attended = child
                .close_all_but(&[theirs.as_fd()])
                .step("close the caller's files", "")
                .and_then(|()| attend(run, theirs.as_fd(), child.witness()));
            u8::from(attended.is_err())
        })
        .step("spawn the attendant of the hooks", "")?;
        Ok(Self(ours))
    }

    /// Has the hooks run that see the container's namespaces from outside.
    pub(crate) fn created(&self, pid: Pid) -> Result<(), StartError> {
        let mut packet = vec![b'C'];
        packet.extend(pid.as_raw().to_le_bytes());
        let gone = "speak with the attendant of the hooks";
        send(self.0.as_fd(), &packet, &[], Wait::Block).step(gone, "")?;
        let mut answer = [0; PACKET_MAX];
        let received = receive(self.0.as_fd(), &mut answer, Wait::Block).step(gone, "")?;
        match answer[..received.bytes].split_first() {
            Some((b'D', _)) => Ok(()),
            Some((b'F', error)) => Err(decode_error(error).unwrap_or(StartError::Died)),
            _ => Err(StartError::Died),
        }
    }

    /// From here on the end of the socket means that the program runs.
    pub(crate) fn starting(&self) -> Result<(), StartError> {
        let told = send(self.0.as_fd(), b"S", &[], Wait::Block);
        told.map(drop)
            .step("speak with the attendant of the hooks", "")
    }

    /// It does not, after all. A filter may forbid to tell.
    pub(crate) fn not_started(&self) {
        let _ = send(self.0.as_fd(), b"X", &[], Wait::Block);
    }
}

/// The attendant's life: hooks for the container's beginning, and others when its program runs.
fn attend(run: &Run, socket: BorrowedFd<'_>, witness: &SingleThreaded) -> Result<(), StartError> {
    let Some(pid) = created(socket)? else {
        return Ok(());
    };
    let here = || Ok(());
    let before = [Point::Prestart, Point::CreateRuntime];
    let done = before
        .into_iter()
        .try_for_each(|point| run.at(point, Some(pid), here, witness));
    let answer = match &done {
        Ok(()) => b"D".to_vec(),
        Err(error) => encode(error),
    };
    send(socket, &answer, &[], Wait::Block).step("tell how the hooks went", "")?;
    if let (true, Some((b'S', _)), None) = (done.is_ok(), next(socket)?, next(socket)?) {
        let after = Run::new(run.hooks.clone(), run.about.clone());
        after.all_at(Point::Poststart, Some(pid), witness);
    }
    Ok(())
}

/// The container's first process, when it is ready for hooks.
fn created(socket: BorrowedFd<'_>) -> Result<Option<Pid>, StartError> {
    let packet = next(socket)?;
    let pid = packet.and_then(|(kind, rest)| (kind == b'C').then_some(rest));
    Ok(pid.map(|pid| Pid::from_raw(i32::from_le_bytes(pid))))
}

/// The next packet's kind and the number in it; none at the end.
fn next(socket: BorrowedFd<'_>) -> Result<Option<(u8, [u8; 4])>, StartError> {
    let mut packet = [0; 5];
    let received = receive(socket, &mut packet, Wait::Block).step("hear from the container", "")?;
    let [kind, number @ ..] = packet;
    Ok((received.bytes > 0).then_some((kind, number)))
}

/// Begins to run the poststop hooks of a container that has ended: in a child of the caller, to be
/// reaped by it, which ends when they have. The bundle may be removed meanwhile.
///
/// # Errors
/// If the spec cannot be opened, or no child can be made.
pub fn poststop(bundle: &Path, id: &str, witness: &SingleThreaded) -> Result<Spawned, StartError> {
    let path = bundle.join(SPEC_FILE);
    let file = File::open(&path).step("open", &path)?;
    let spawned = process::spawn(&Spawn::default(), witness, |child| {
        let prepared = child
            .close_all_but(&[file.as_fd()])
            .step("close the caller's files", "")
            .and_then(|()| read_spec(file, &path))
            .and_then(|spec| Ok(Run::new(Hooks::from_spec(&spec)?, about(id, bundle, &spec))));
        match prepared {
            Ok(run) => {
                run.all_at(Point::Poststop, None, child.witness());
                0
            }
            Err(error) => {
                complain(id, &error);
                1
            }
        }
    });
    spawned.step("spawn a process for hooks", "")
}

/// Says what nobody is told any more.
fn complain(id: &str, error: &StartError) {
    let _ = writeln!(std::io::stderr(), "container {id}: {error}");
}

/// What the hooks of a container are told of it.
pub(crate) fn about(id: &str, bundle: &Path, spec: &oci_spec::runtime::Spec) -> About {
    About {
        id: id.to_owned(),
        bundle: bundle.display().to_string(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        oci_version: spec.version().clone(),
    }
}
