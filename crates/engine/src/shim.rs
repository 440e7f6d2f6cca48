//! The daemon's side of a pod's shim: requests that are answered, and events that come by themselves.
//!
//! One task reads the socket. What a reply or an event changes in the engine's memory is done by that
//! task, in the order in which the shim sent it: a container's start is known before its exit.

use crate::error::{Error, Result, chain};
use crate::reaper::Reaper;
use crisp_model::PodId;
use crisp_shim_api::message::{
    self, Exit, Failure, Packet, Process, event, failure, packet, reply, request,
};
use crisp_shim_api::{ConnectError, PodPaths, SpawnError};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdSocket;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// How long the shim may take to answer. It never waits for a container but while one starts, whose
/// mounts may take their time.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests in flight to one shim; more are refused.
const PENDING_MAX: usize = 4096;

/// An answer with the descriptors that came with it.
pub(crate) type Answer = (reply::Body, Vec<OwnedFd>);

/// What a shim tells by itself.
#[derive(Debug)]
pub(crate) enum ShimEvent {
    /// A container was started for a daemon before this one.
    Started(Process),
    /// A container's first process ended.
    Exit(Exit),
    /// The pause process ended.
    PodExited,
    /// The connection broke: the shim is gone.
    Lost,
}

/// Done with a successful answer before anything that the shim sent after it is looked at.
pub(crate) type Hook = Box<dyn FnOnce(&reply::Body) + Send>;

/// Told of every event; must not wait.
pub(crate) type Listener = Box<dyn Fn(ShimEvent) + Send + Sync>;

/// A connection to a shim.
pub(crate) struct Shim {
    pod: PodId,
    /// A SEQPACKET socket. tokio has no type for those; of the one for datagrams only the waiting is
    /// used.
    socket: UnixDatagram,
    next_id: AtomicU64,
    /// What was negotiated; zero before.
    version: AtomicU32,
    waiting: Mutex<Waiting>,
    closed: watch::Sender<bool>,
    abandoned: Notify,
}

#[derive(Default)]
struct Waiting {
    replies: HashMap<u64, Pending>,
    execs: HashMap<String, oneshot::Sender<Exit>>,
}

struct Pending {
    answer: oneshot::Sender<Answer>,
    hook: Option<Hook>,
}

/// A shim that is still to be started. What it is asked meanwhile waits for it.
pub(crate) struct Unborn {
    shim: Arc<Shim>,
    listener: crisp_shim_api::Listener,
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Asked {
    id: u64,
    answered: oneshot::Receiver<Answer>,
    deadline: Instant,
}

impl Shim {
    /// Prepares for a shim.
    pub(crate) fn expect(pod: &PodId, runtime_dir: &Path) -> Result<Unborn> {
        let (listener, socket) =
            crisp_shim_api::listen(&PodPaths::new(runtime_dir)).map_err(not_started)?;
        let shim = Self::over(pod, socket)?;
        Ok(Unborn { shim, listener })
    }

    /// Connects to a shim that runs already, and gives what it says of its pod; none: there is none.
    pub(crate) async fn connect(
        pod: &PodId,
        runtime_dir: &Path,
        listener: Listener,
    ) -> Result<Option<(Arc<Self>, message::Welcome)>> {
        let socket = match crisp_shim_api::connect(&PodPaths::new(runtime_dir)) {
            Ok(socket) => socket,
            Err(ConnectError::NotListening) => return Ok(None),
            Err(error) => return Err(Error::Shim(format!("cannot be reached: {}", chain(&error)))),
        };
        let shim = Self::over(pod, socket)?;
        shim.attend(listener);
        match shim.hello().await {
            Ok(welcome) => Ok(Some((shim, welcome))),
            Err(Error::Shim(_)) if shim.is_closed() => Ok(None),
            Err(error) => {
                shim.abandon();
                Err(error)
            }
        }
    }

    fn over(pod: &PodId, socket: OwnedFd) -> Result<Arc<Self>> {
        let failed = |e: io::Error| Error::Shim(format!("socket cannot be watched: {e}"));
        let socket = StdSocket::from(socket);
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Arc::new(Self {
            pod: pod.clone(),
            socket: UnixDatagram::from_std(socket).map_err(failed)?,
            next_id: AtomicU64::new(1),
            version: AtomicU32::new(0),
            waiting: Mutex::default(),
            closed: watch::Sender::new(false),
            abandoned: Notify::new(),
        }))
    }

    /// Listens to the shim from now on.
    fn attend(self: &Arc<Self>, listener: Listener) {
        tokio::spawn(read_packets(self.clone(), listener));
    }

    /// The first exchange on a connection.
    async fn hello(&self) -> Result<message::Welcome> {
        self.welcome(self.greet().await?).await
    }

    /// Begins the first exchange. What is asked next need not wait for its answer.
    pub(crate) async fn greet(&self) -> Result<Asked> {
        let version = crisp_shim_api::VERSION;
        let hello = request::Body::Hello(message::Hello { version });
        self.ask(hello, &[], None).await
    }

    /// The answer to [`Shim::greet`].
    pub(crate) async fn welcome(&self, greeting: Asked) -> Result<message::Welcome> {
        match self.answer(greeting).await? {
            (reply::Body::Welcome(welcome), _) => {
                self.version.store(welcome.version, Ordering::Relaxed);
                Ok(welcome)
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Whether a container's root file system can come with the request to start it.
    pub(crate) fn takes_rootfs(&self) -> bool {
        self.version.load(Ordering::Relaxed) >= 2
    }

    /// Asks, and waits for the answer. A failure that the shim reports is an error here.
    pub(crate) async fn call(&self, body: request::Body) -> Result<Answer> {
        self.call_with(body, &[], None).await
    }

    /// As [`Shim::call`], with descriptors for the shim, and something to do before later packets are
    /// looked at.
    pub(crate) async fn call_with(
        &self,
        body: request::Body,
        fds: &[OwnedFd],
        hook: Option<Hook>,
    ) -> Result<Answer> {
        let asked = self.ask(body, fds, hook).await?;
        self.answer(asked).await
    }

    async fn ask(&self, body: request::Body, fds: &[OwnedFd], hook: Option<Hook>) -> Result<Asked> {
        let asked = self.expect_answer(hook)?;
        let packet = crisp_shim_api::request(asked.id, body);
        match timeout_at(asked.deadline, self.send(&packet, fds)).await {
            Ok(Ok(())) => Ok(asked),
            Ok(Err(error)) => {
                self.waiting().replies.remove(&asked.id);
                Err(error)
            }
            Err(_) => Err(self.give_up(asked.id)),
        }
    }

    /// Asks without waiting for room on the socket, of which a shim that is still to come up has enough.
    pub(crate) fn ask_now(&self, body: request::Body, fds: &[OwnedFd]) -> Result<Asked> {
        let asked = self.expect_answer(None)?;
        let packet = crisp_shim_api::request(asked.id, body);
        self.try_send(&packet, fds).map_err(|error| {
            self.waiting().replies.remove(&asked.id);
            unsent(&error)
        })?;
        Ok(asked)
    }

    fn expect_answer(&self, hook: Option<Hook>) -> Result<Asked> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if self.is_closed() {
                return Err(gone());
            }
            if waiting.replies.len() >= PENDING_MAX {
                return Err(Error::Exhausted(format!(
                    "{PENDING_MAX} requests wait for the shim of pod {}",
                    self.pod
                )));
            }
            waiting.replies.insert(id, Pending { answer, hook });
        }
        Ok(Asked {
            id,
            answered,
            deadline: Instant::now() + ANSWER_TIMEOUT,
        })
    }

    /// Waits for the answer to what was asked. A failure that the shim reports is an error here.
    pub(crate) async fn answer(&self, asked: Asked) -> Result<Answer> {
        let (body, fds) = match timeout_at(asked.deadline, asked.answered).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => return Err(self.give_up(asked.id)),
        };
        match body {
            reply::Body::Failure(failure) => Err(reported(failure)),
            body => Ok((body, fds)),
        }
    }

    /// Waits no longer. What a late reply changes in memory holds all the same.
    fn give_up(&self, id: u64) -> Error {
        let mut waiting = self.waiting();
        let changes_nothing = |pending: &Pending| pending.hook.is_none();
        if waiting.replies.get(&id).is_some_and(changes_nothing) {
            waiting.replies.remove(&id);
        }
        Error::Shim(format!("did not answer within {ANSWER_TIMEOUT:?}"))
    }

    /// Announces that the exit of an exec'd process is waited for; before the process is started.
    pub(crate) fn expect_exec(&self, exec_id: &str) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().execs.insert(exec_id.to_owned(), sender);
        receiver
    }

    /// Withdraws what [`Shim::expect_exec`] announced.
    pub(crate) fn forget_exec(&self, exec_id: &str) {
        self.waiting().execs.remove(exec_id);
    }

    async fn send(&self, packet: &Packet, fds: &[OwnedFd]) -> Result<()> {
        let send = || self.try_send(packet, fds);
        let sent = match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.async_io(Interest::WRITABLE, send).await
            }
            // Without a look at whether there is room, of which a new socket does not know at first.
            sent => sent,
        };
        sent.map_err(|error| unsent(&error))
    }

    fn try_send(&self, packet: &Packet, fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        crisp_shim_api::try_send(self.socket.as_fd(), packet, &fds).map_err(io::Error::from)
    }

    async fn receive(&self) -> io::Result<(Packet, Vec<OwnedFd>)> {
        let receive = || crisp_shim_api::try_recv(self.socket.as_fd()).map_err(io::Error::from);
        self.socket.async_io(Interest::READABLE, receive).await
    }

    fn deliver(&self, id: u64, body: reply::Body, fds: Vec<OwnedFd>) {
        let Some(pending) = self.waiting().replies.remove(&id) else {
            return;
        };
        if let (Some(hook), false) = (pending.hook, matches!(body, reply::Body::Failure(_))) {
            hook(&body);
        }
        // The caller may have stopped waiting.
        let _ = pending.answer.send((body, fds));
    }

    fn exec_ended(&self, exit: Exit) {
        if let Some(waiter) = self.waiting().execs.remove(&exit.exec_id) {
            let _ = waiter.send(exit);
        }
    }

    fn lose(&self) {
        let mut waiting = self.waiting();
        // Before the waiters hear of it, who ask why.
        self.closed.send_replace(true);
        waiting.replies.clear();
        waiting.execs.clear();
    }

    /// Closes the connection of which nobody wants to hear any more: a shim takes a few only.
    pub(crate) fn abandon(&self) {
        self.abandoned.notify_one();
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until the connection has ended, as it does with the shim.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unborn {
    /// The connection to it.
    pub(crate) fn shim(&self) -> &Arc<Shim> {
        &self.shim
    }

    /// Starts the shim.
    pub(crate) fn spawn(
        self,
        exe: impl AsFd,
        reaper: &Reaper,
        listener: Listener,
    ) -> Result<Arc<Shim>> {
        reaper.expect(self.listener.spawn(exe.as_fd()).map_err(not_started)?);
        self.shim.attend(listener);
        Ok(self.shim)
    }
}

impl fmt::Debug for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shim")
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}

async fn read_packets(shim: Arc<Shim>, listener: Listener) {
    loop {
        let received = tokio::select! {
            received = shim.receive() => received,
            () = shim.abandoned.notified() => return shim.lose(),
        };
        let (packet, fds) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(pod = %shim.pod, %error, "the connection to the shim ended");
                break;
            }
        };
        match packet.body {
            Some(packet::Body::Reply(message::Reply {
                id,
                body: Some(body),
            })) => {
                shim.deliver(id, body, fds);
            }
            Some(packet::Body::Event(message::Event { body: Some(body) })) => match body {
                event::Body::Exit(exit) if exit.exec_id.is_empty() => {
                    listener(ShimEvent::Exit(exit))
                }
                event::Body::Exit(exit) => shim.exec_ended(exit),
                event::Body::PodExited(_) => listener(ShimEvent::PodExited),
                event::Body::Started(process) => listener(ShimEvent::Started(process)),
            },
            // Of a newer shim: nothing that this daemon asked for.
            _ => {}
        }
    }
    shim.lose();
    listener(ShimEvent::Lost);
}

fn not_started(error: SpawnError) -> Error {
    Error::Shim(format!("cannot be started: {}", chain(&error)))
}

fn unsent(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidInput => Error::invalid("request", error.to_string()),
        _ => gone(),
    }
}

fn gone() -> Error {
    Error::Shim("is gone".to_owned())
}

/// An answer of another kind than was asked for.
pub(crate) fn unexpected(body: &reply::Body) -> Error {
    let text = format!("{body:?}");
    let word = text.split('(').next().unwrap_or_default();
    Error::Shim(format!("gave an unexpected answer: {word}"))
}

fn reported(failure: Failure) -> Error {
    let kind = failure.kind();
    let message = failure.message;
    match kind {
        failure::Kind::NotFound => Error::UnknownToShim(message),
        failure::Kind::NotRunning => Error::FailedPrecondition(message),
        failure::Kind::NotExecutable => Error::NotExecutable(message),
        failure::Kind::Invalid => Error::invalid("shim", message),
        failure::Kind::AlreadyExists => Error::AlreadyExists {
            what: "process".into(),
            id: message,
        },
        failure::Kind::Internal => Error::Shim(format!("failed: {message}")),
    }
}
