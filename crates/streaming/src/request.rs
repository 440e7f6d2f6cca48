//! What callers give the server: how to get at a process or a port once a client is there.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A future that can be sent and owns what it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Starts a process, or attaches to one.
pub type Start = Box<dyn FnOnce() -> BoxFuture<Result<Process, StartFailure>> + Send>;

/// Sets the size of a terminal. Sizes that come while one is being set are skipped but for the last.
pub type Resize = Box<dyn Fn(TerminalSize) -> BoxFuture<()> + Send + Sync>;

/// Dials a port, in the network of a pod.
pub type Connect = Arc<dyn Fn(u16) -> BoxFuture<io::Result<TcpStream>> + Send + Sync>;

/// An exec or an attach.
pub struct ProcessRequest {
    /// Whether the client sends standard input.
    pub stdin: bool,
    pub stdout: bool,
    /// Not together with `tty`.
    pub stderr: bool,
    /// Whether the process has a terminal, the size of which the client sets.
    pub tty: bool,
    /// Called once all of the client's streams are there; dropped when they never come. The future is
    /// dropped when the client leaves before it is ready.
    pub start: Start,
}

impl fmt::Debug for ProcessRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessRequest")
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .field("tty", &self.tty)
            .finish_non_exhaustive()
    }
}

/// A process that runs. Dropped when the session ends, also when the client leaves early: what is to
/// happen to the process then can hang on what `exit` owns.
///
/// Descriptors are pipes, sockets or terminals, and become non-blocking.
pub struct Process {
    pub stdin: Option<Stdin>,
    /// Read to its end, and thrown away if the client did not ask for it.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// None without a terminal.
    pub resize: Option<Resize>,
    /// Ready at the process's end, or, for an attach, at that of the attachment.
    pub exit: BoxFuture<Exit>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .finish_non_exhaustive()
    }
}

/// Where standard input goes, which says how it ends when the client has sent all of it.
#[derive(Debug)]
pub enum Stdin {
    /// Closing it is seen at the other end: a pipe, or a connected socket.
    Pipe(OwnedFd),
    /// The master of a terminal: it is given Ctrl-D, for one of its directions cannot be closed alone.
    Terminal(OwnedFd),
}

/// A size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// How a session with a process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// An exec'd process has exited, with the code that a shell would show (128 + n for a signal n).
    Code(u8),
    /// An attachment has ended: by the container's end or by detaching.
    Detached,
    /// It is not known how, or the session had to be given up.
    Unknown(String),
}

/// Why a process could not be started or attached to, as the client is told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StartFailure(pub String);

/// A port-forward.
#[derive(Clone)]
pub struct PortForwardRequest {
    /// The only ports that may be dialled; empty allows all. A WebSocket client gets channels for
    /// these, or for the ports in its URL's query if this is empty.
    pub ports: Vec<u16>,
    /// Called for each connection.
    pub connect: Connect,
}

impl fmt::Debug for PortForwardRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortForwardRequest")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}
