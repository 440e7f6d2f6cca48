//! A client that is attached to a container.

use crate::lines::Stream;
use crate::poller::{Event, Interest, Key, Poller, Watched};
use crate::stdio::{nonblocking, pipe};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::write;
use std::os::fd::OwnedFd;

/// Output that may wait for a client, in the kernel. Where the limits on pipes of a user do not
/// allow it, it is the default of 64 KiB.
const OUTPUT_BUFFER_BYTES: i32 = 1024 * 1024;

/// What a client wants of a container, restricted to what that has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// An attached client: its ends are pipes for output and a socket for input, all held by the daemon.
#[derive(Debug)]
pub(crate) struct Client {
    key: Key,
    stdout: Option<Watched<OwnedFd>>,
    stderr: Option<Watched<OwnedFd>>,
    pub(crate) input: Option<Watched<OwnedFd>>,
}

impl Client {
    /// Makes a client, and the descriptors for the daemon: the input's, then the outputs'.
    pub(crate) fn new(
        poller: &Poller,
        key: Key,
        wanted: Wanted,
    ) -> nix::Result<(Self, Vec<OwnedFd>)> {
        let mut client = Self {
            key,
            stdout: None,
            stderr: None,
            input: None,
        };
        let mut theirs = Vec::new();
        if wanted.stdin {
            let (ours, their) = input_socket()?;
            client.input = Some(poller.watch(ours, Event::ClientInput(key), Interest::Read)?);
            theirs.push(their);
        }
        if wanted.stdout {
            let (ours, their) = output_pipe()?;
            client.stdout = Some(poller.watch(ours, Event::ClientOutput(key), Interest::Hangup)?);
            theirs.push(their);
        }
        if wanted.stderr {
            let (ours, their) = output_pipe()?;
            client.stderr = Some(poller.watch(ours, Event::ClientOutput(key), Interest::Hangup)?);
            theirs.push(their);
        }
        Ok((client, theirs))
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Copies output to the client. False when it does not keep up or is gone, and is to be detached:
    /// the container and others must not wait for it, and a gap would go unnoticed.
    pub(crate) fn offer(&self, stream: Stream, text: &[u8]) -> bool {
        let pipe = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        match pipe {
            Some(pipe) => write(&**pipe, text) == Ok(text.len()),
            None => true,
        }
    }

    /// An output of the container has ended; the client sees the end once it has read the rest.
    pub(crate) fn end(&mut self, stream: Stream) {
        match stream {
            Stream::Stdout => self.stdout = None,
            Stream::Stderr => self.stderr = None,
        }
    }

    /// Whether nothing connects the client with the container any more.
    pub(crate) fn is_over(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.input.is_none()
    }
}

fn input_socket() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    nonblocking(&ours)?;
    Ok((ours, theirs))
}

fn output_pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = pipe()?;
    nonblocking(&ours)?;
    // Fails where a user's pipes are limited, and then the default size has to do.
    let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(OUTPUT_BUFFER_BYTES));
    Ok((ours, theirs))
}
