//! Starting a shim from the daemon.
//!
//! posix_spawn(3) shares the daemon's memory with the child until it executes, so that starting a shim
//! costs the same however large the daemon is. Only descriptors 0 to 3 reach the shim.

use crate::paths::SOCKET_NAME;
use crate::socket::listen_at;
use crate::{ConnectError, PodPaths, connect};
use crisp_crash::point;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;

/// The listening socket in the shim.
pub const LISTENER_FD: RawFd = 3;

/// glibc keeps freed blocks for each thread, so that it need not lock. They hold pages that could be given back,
/// the shim has one thread, and only the environment can turn it off (ld.so(8)).
const ONE_FREE_LIST: &CStr = c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0";

/// The listening socket of a shim that is still to be started.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    paths: PodPaths,
}

/// A shim could not be started; no process is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A shim listens in the directory: connect to it.
    #[error("the pod has a shim already")]
    AlreadyRunning,
    /// The listening socket could not be made or connected to.
    #[error("the shim's socket {SOCKET_NAME}")]
    Socket(#[source] ConnectError),
    /// The file system or the kernel refused.
    #[error("{op}")]
    Io {
        /// What was done.
        op: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Prepares for the shim of a pod, in an existing runtime directory that has no living shim. Gives a
/// connection, too, that the shim takes as soon as it is up: what is sent by it waits until then.
///
/// # Errors
/// See [`SpawnError`].
pub fn listen(paths: &PodPaths) -> Result<(Listener, OwnedFd), SpawnError> {
    make_exits_dir(paths)?;
    let socket = match listen_at(paths) {
        Err(ConnectError::Taken) => {
            make_way(paths)?;
            listen_at(paths)
        }
        done => done,
    };
    let socket = socket.map_err(SpawnError::Socket)?;
    point!("spawn.listening");
    let connection = connect(paths).map_err(SpawnError::Socket)?;
    point!("spawn.connected");
    let paths = paths.clone();
    Ok((Listener { socket, paths }, connection))
}

impl Listener {
    /// Starts the shim from `shim_exe`, a sealed copy of its program, without waiting for it to come up. It is
    /// a child of the caller, who reaps it.
    ///
    /// # Errors
    /// [`SpawnError::Io`].
    pub fn spawn(self, shim_exe: BorrowedFd<'_>) -> Result<Pid, SpawnError> {
        let pid = execute(shim_exe, self.socket.as_fd(), &self.paths)?;
        point!("spawn.executed");
        Ok(pid)
    }
}

/// Removes a socket that nobody listens on any more.
fn make_way(paths: &PodPaths) -> Result<(), SpawnError> {
    match connect(paths) {
        Err(ConnectError::NotListening) => {}
        Ok(_) | Err(ConnectError::Hanging) => return Err(SpawnError::AlreadyRunning),
        Err(error) => return Err(SpawnError::Socket(error)),
    }
    match fs::remove_file(paths.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove the socket of a dead shim")(error))
        }
        _ => Ok(()),
    }
}

fn make_exits_dir(paths: &PodPaths) -> Result<(), SpawnError> {
    match fs::DirBuilder::new().mode(0o700).create(paths.exits()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make the directory of the exit records")(error))
        }
        _ => Ok(()),
    }
}

fn execute(
    shim_exe: BorrowedFd<'_>,
    listener: BorrowedFd<'_>,
    paths: &PodPaths,
) -> Result<Pid, SpawnError> {
    let exe = above_listener(shim_exe)?;
    let listener = above_listener(listener)?;
    let log = above_listener(open_log(paths)?.as_fd())?;
    let path = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let dir = CString::new(paths.runtime_dir().as_os_str().as_bytes())
        .map_err(|error| failed("use the runtime directory")(error.into()))?;
    let arguments = [c"crisp-shim".to_owned(), c"shim".to_owned(), dir];
    let mut environment = crisp_crash::environment();
    environment.push(ONE_FREE_LIST.to_owned());
    let actions = descriptors(&listener, &log).map_err(from_errno("prepare posix_spawn"))?;
    let attributes = clean_signals().map_err(from_errno("prepare posix_spawn"))?;
    posix_spawn(
        path.as_str(),
        &actions,
        &attributes,
        &arguments,
        &environment,
    )
    .map_err(from_errno("posix_spawn"))
}

/// A copy of a descriptor that does not stand where the shim's own will be put.
fn above_listener(fd: BorrowedFd<'_>) -> Result<OwnedFd, SpawnError> {
    let copy = || {
        fd.try_clone_to_owned()
            .map_err(failed("duplicate a descriptor"))
    };
    let first = copy()?;
    if first.as_raw_fd() > LISTENER_FD {
        Ok(first)
    } else {
        copy()
    }
}

fn open_log(paths: &PodPaths) -> Result<OwnedFd, SpawnError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    open(&paths.shim_log(), flags | OFlag::O_CLOEXEC, mode)
        .map_err(from_errno("open the shim's log"))
}

/// Nothing but these reaches the shim: all else in the daemon is closed on exec.
fn descriptors(listener: &OwnedFd, log: &OwnedFd) -> Result<PosixSpawnFileActions, Errno> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, c"/dev/null", OFlag::O_RDONLY, Mode::empty())?;
    actions.add_open(1, c"/dev/null", OFlag::O_WRONLY, Mode::empty())?;
    actions.add_dup2(log.as_raw_fd(), 2)?;
    actions.add_dup2(listener.as_raw_fd(), LISTENER_FD)?;
    Ok(actions)
}

/// The shim starts with no signal blocked or ignored, whatever the daemon does with its own.
fn clean_signals() -> Result<PosixSpawnAttr, Errno> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    Ok(attributes)
}

fn failed(op: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |source| SpawnError::Io { op, source }
}

fn from_errno(op: &'static str) -> impl FnOnce(Errno) -> SpawnError {
    move |errno| failed(op)(errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_over_from_the_dead_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(dir.path());
        drop(listen(&paths).unwrap());
        let (_listener, _connection) = listen(&paths).unwrap();
        assert!(matches!(listen(&paths), Err(SpawnError::AlreadyRunning)));
        assert!(connect(&paths).is_ok());
    }
}
