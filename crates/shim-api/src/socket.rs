//! The socket of a shim: listening, connecting, and who is at the other end.

use crate::PodPaths;
use crate::paths::SOCKET_NAME;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, socket,
};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Connections that may wait for a shim that is busy or not up yet.
const BACKLOG: i32 = 16;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens: the shim has ended or was never started.
    #[error("no shim listens")]
    NotListening,
    /// There is a socket already, whether somebody listens on it or not.
    #[error("there is a socket already")]
    Taken,
    /// Too many connections wait for the shim, which does not take them: it hangs.
    #[error("the shim does not accept connections")]
    Hanging,
    /// The process at the other end belongs to another user; the connection was closed.
    #[error("the peer's uid is {uid}")]
    ForeignPeer {
        /// The peer's effective user.
        uid: u32,
    },
    /// The kernel refused.
    #[error("{op}")]
    Io {
        /// What was done.
        op: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
}

/// Connects to the shim of a pod. Never waits; the peer is checked to be of our own user.
///
/// # Errors
/// See [`ConnectError`].
pub fn connect(paths: &PodPaths) -> Result<OwnedFd, ConnectError> {
    let dir = open_dir(paths)?;
    let socket = new_socket(SockFlag::SOCK_NONBLOCK)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &address(&dir)?) {
        Ok(()) => {}
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Err(ConnectError::NotListening),
        Err(Errno::EAGAIN) => return Err(ConnectError::Hanging),
        Err(source) => {
            return Err(ConnectError::Io {
                op: "connect",
                source,
            });
        }
    }
    check_peer(&socket)?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty())).map_err(failed("fcntl(F_SETFL)"))?;
    Ok(socket)
}

/// Takes a connection from a listening socket; its peer is checked to be of our own user.
///
/// # Errors
/// [`ConnectError::Io`] with `EAGAIN` when none waits and the listener does not block.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, ConnectError> {
    let socket = accept4(listener, SockFlag::SOCK_CLOEXEC).map_err(failed("accept4"))?;
    check_peer(&socket)?;
    Ok(socket)
}

/// Makes the listening socket of a pod; [`ConnectError::Taken`] if there is one.
pub(crate) fn listen_at(paths: &PodPaths) -> Result<OwnedFd, ConnectError> {
    let dir = open_dir(paths)?;
    let socket = new_socket(SockFlag::empty())?;
    match bind(socket.as_raw_fd(), &address(&dir)?) {
        Err(Errno::EADDRINUSE) => return Err(ConnectError::Taken),
        done => done.map_err(failed("bind"))?,
    }
    let backlog = Backlog::new(BACKLOG).expect("the backlog is between 0 and SOMAXCONN");
    listen(&socket, backlog).map_err(failed("listen"))?;
    Ok(socket)
}

fn new_socket(flags: SockFlag) -> Result<OwnedFd, ConnectError> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed("socket"))
}

fn open_dir(paths: &PodPaths) -> Result<OwnedFd, ConnectError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match open(paths.runtime_dir(), flags, Mode::empty()) {
        Ok(dir) => Ok(dir),
        Err(Errno::ENOENT) => Err(ConnectError::NotListening),
        Err(source) => Err(ConnectError::Io {
            op: "open the runtime directory",
            source,
        }),
    }
}

/// The socket's address by way of its directory's descriptor: the 108 bytes of `sun_path` (unix(7))
/// are too few for a path with a 64-digit id below any root directory.
fn address(dir: &OwnedFd) -> Result<UnixAddr, ConnectError> {
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd());
    UnixAddr::new(path.as_str()).map_err(failed("make the socket's address"))
}

fn check_peer(socket: &OwnedFd) -> Result<(), ConnectError> {
    let peer = getsockopt(socket, PeerCredentials).map_err(failed("getsockopt(SO_PEERCRED)"))?;
    if peer.uid() == geteuid().as_raw() {
        Ok(())
    } else {
        Err(ConnectError::ForeignPeer { uid: peer.uid() })
    }
}

fn failed(op: &'static str) -> impl FnOnce(Errno) -> ConnectError {
    move |source| ConnectError::Io { op, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Hello, request};
    use crate::packet;
    use std::os::fd::AsFd;

    #[test]
    fn a_path_longer_than_an_address_can_be_listened_on() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let paths = PodPaths::new(deep);
        let listener = listen_at(&paths).unwrap();
        let client = connect(&paths).unwrap();
        let server = accept(listener.as_fd()).unwrap();
        let hello = packet::request(1, request::Body::Hello(Hello { version: 1 }));
        packet::send(client.as_fd(), &hello, &[]).unwrap();
        assert_eq!(packet::recv(server.as_fd()).unwrap().0, hello);
    }

    #[test]
    fn nobody_listening_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(dir.path());
        assert!(matches!(connect(&paths), Err(ConnectError::NotListening)));
        drop(listen_at(&paths).unwrap());
        assert!(matches!(connect(&paths), Err(ConnectError::NotListening)));
        assert!(matches!(listen_at(&paths), Err(ConnectError::Taken)));
    }

    #[test]
    fn a_listener_that_takes_nothing_does_not_hold_up_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(dir.path());
        let _listener = listen_at(&paths).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match connect(&paths) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, ConnectError::Hanging), "{refused}");
    }
}
