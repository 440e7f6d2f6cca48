//! Processes whose streams a client holds: exec'd ones, and attached containers; and connections into
//! a pod's network. The bytes go between the client and the descriptors given here, not through the
//! engine.

use crate::container::exec::ExecWanted;
use crate::engine::{Engine, exit_reason};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::shim::{Shim, unexpected};
use crisp_crash::point;
use crisp_model::{ContainerState, PodState};
use crisp_shim_api::message::open_socket::Family;
use crisp_shim_api::message::{
    self, Attach, CloseStdin, OpenSocket, ResizeTerminal, reply, request,
};
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream};

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The process gets a terminal, or has one.
    pub terminal: bool,
}

/// The streams of a process.
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    /// With a terminal, the one stream for all output.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub control: StreamControl,
    /// The exit code, once the process has ended.
    pub exit: Pin<Box<dyn Future<Output = Result<i32>> + Send>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// What a client does to a process beside its streams.
#[derive(Debug, Clone)]
pub struct StreamControl {
    shim: Arc<Shim>,
    container_id: String,
    /// Empty: the container's first process.
    exec_id: String,
}

impl StreamControl {
    /// Tells the process how large its terminal is. A process without one is told nothing.
    pub async fn resize(&self, columns: u16, rows: u16) {
        let request = ResizeTerminal {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            columns: columns.into(),
            rows: rows.into(),
        };
        self.tell(request::Body::ResizeTerminal(request)).await;
    }

    /// Tells the process that nothing more comes in.
    pub async fn close_stdin(&self) {
        let request = CloseStdin {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        };
        self.tell(request::Body::CloseStdin(request)).await;
    }

    async fn signal(&self, signal: Signal) {
        let request = message::Signal {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal: signal as i32,
            all: false,
        };
        self.tell(request::Body::Signal(request)).await;
    }

    async fn tell(&self, body: request::Body) {
        if let Err(error) = self.shim.call(body).await {
            // It has ended, or has no terminal.
            tracing::debug!(
                container = self.container_id,
                error = chain(&error),
                "not told"
            );
        }
    }
}

/// Tells a process that its terminal is gone, when its client leaves before it ends. The kernel would
/// (pty(7)), but the shim holds the terminal as well, so that it outlives the daemon.
struct HangUp(Option<StreamControl>);

impl HangUp {
    fn has_stayed(mut self) {
        self.0 = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            tokio::spawn(async move {
                // What is stopped takes no notice of the first before the second.
                process.signal(Signal::SIGHUP).await;
                process.signal(Signal::SIGCONT).await;
            });
        }
    }
}

impl Engine {
    /// Runs a command in a container, with its streams for a client.
    ///
    /// # Errors
    /// If the container does not run, or the command cannot be executed.
    pub async fn exec(
        self: &Arc<Self>,
        id: &str,
        command: Vec<String>,
        wanted: Wanted,
    ) -> Result<Streams> {
        let container = self.running_container(id)?;
        let shim = self.shim_of(&container)?;
        let how = ExecWanted {
            terminal: wanted.terminal,
            stdin: wanted.stdin,
            timeout: None,
        };
        let exec = self.prepare_exec(&container.record(), command, how)?;
        let control = StreamControl {
            shim: shim.clone(),
            container_id: container.id().to_string(),
            exec_id: exec.id().to_owned(),
        };
        let (exited, fds) = exec.start(&shim).await?;
        point!("stream.exec-started");
        let [stdin, stdout, stderr] = arrange(fds, wanted.stdin, wanted.terminal)?;
        let client = HangUp(wanted.terminal.then(|| control.clone()));
        let exit = async move {
            let exit = exited
                .await
                .map_err(|_| Error::Shim("is gone".to_owned()))?;
            client.has_stayed();
            point!("stream.exec-ended");
            Ok(exit_reason(&exit).exit_code())
        };
        Ok(Streams {
            stdin,
            stdout,
            stderr,
            control,
            exit: Box::pin(exit),
        })
    }

    /// The streams of a container's first process. Several clients may have them.
    ///
    /// # Errors
    /// If the container does not run.
    pub async fn attach(self: &Arc<Self>, id: &str, wanted: Wanted) -> Result<Streams> {
        let container = self.running_container(id)?;
        let shim = self.shim_of(&container)?;
        let config = container.record().config;
        let stdin = wanted.stdin && config.stdin;
        let request = Attach {
            container_id: container.id().to_string(),
            stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr && !config.tty,
        };
        let (body, fds) = shim.call(request::Body::Attach(request.clone())).await?;
        if !matches!(body, reply::Body::Attached(_)) {
            return Err(unexpected(&body));
        }
        point!("stream.attached");
        let mut fds = fds.into_iter();
        let mut next = |asked: bool| if asked { fds.next() } else { None };
        let (stdin, stdout, stderr) = (
            next(request.stdin),
            next(request.stdout),
            next(request.stderr),
        );
        let control = StreamControl {
            shim,
            container_id: request.container_id,
            exec_id: String::new(),
        };
        let exit = async move {
            container.exited().await;
            match container.state() {
                ContainerState::Exited(exited) => Ok(exited.reason.exit_code()),
                _ => Err(Error::Internal(
                    "a container that had ended has not".to_owned(),
                )),
            }
        };
        Ok(Streams {
            stdin,
            stdout,
            stderr,
            control,
            exit: Box::pin(exit),
        })
    }

    /// Connects to a port of a pod as from inside it: to its loopback address, IPv4 first.
    ///
    /// # Errors
    /// If the pod is not ready, or nobody listens.
    pub async fn dial(self: &Arc<Self>, pod: &str, port: u16) -> Result<TcpStream> {
        let pod = self.store.pod(pod)?;
        let shim = pod
            .shim()
            .filter(|_| pod.state() == PodState::Ready)
            .ok_or_else(|| pod.not_ready())?;
        match connect(&shim, Family::Ipv4, (Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => Ok(stream),
            Err(first) => {
                let second = connect(&shim, Family::Ipv6, (Ipv6Addr::LOCALHOST, port).into()).await;
                second.map_err(|_| first)
            }
        }
    }
}

/// A socket of the pod's network is one wherever it is used.
async fn connect(shim: &Shim, family: Family, address: SocketAddr) -> Result<TcpStream> {
    let request = OpenSocket {
        family: family.into(),
    };
    let (_, fds) = shim.call(request::Body::OpenSocket(request)).await?;
    let socket = fds.into_iter().next();
    let socket = socket.ok_or_else(|| Error::Shim("gave no socket".to_owned()))?;
    point!("stream.dialled");
    let socket = TcpSocket::from_std_stream(socket.into());
    let refused = |e: std::io::Error| {
        Error::FailedPrecondition(format!("connecting to {address} in the pod: {e}"))
    };
    socket.connect(address).await.map_err(refused)
}

/// Standard input, output and error out of what a shim gave for an exec'd process.
fn arrange(fds: Vec<OwnedFd>, stdin: bool, terminal: bool) -> Result<[Option<OwnedFd>; 3]> {
    let mut fds = fds.into_iter();
    let mut next = || {
        fds.next()
            .ok_or_else(|| Error::Shim("gave too few streams".to_owned()))
    };
    if terminal {
        let master = next()?;
        let input = stdin.then(|| master.try_clone()).transpose();
        let input = input.map_err(Error::io("duplicate", "a terminal"))?;
        return Ok([input, Some(master), None]);
    }
    let input = if stdin { Some(next()?) } else { None };
    Ok([input, Some(next()?), Some(next()?)])
}
