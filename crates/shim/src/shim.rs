//! The event loop of a pod's shim, and what it knows.

use crate::connection::{Accepted, Connections, Incoming, ReplyTo};
use crate::container::Container;
use crate::exec::Exec;
use crate::journal::journal;
use crate::lines::Stream;
use crate::pod::Pod;
use crate::poller::{Event, Interest, Key, Keys, Poller, Readiness, Watched};
use crate::reap::Unclaimed;
use crate::scratch::Scratch;
use crate::shutdown::Closing;
use crate::stdio::nonblocking;
use crisp_crash::point;
use crisp_shim_api::{LISTENER_FD, PodPaths, ShimPid};
use crisp_sys::memory;
use crisp_sys::process::{SingleThreaded, close_on_exec, set_child_subreaper};
use crisp_sys::socket::inherited;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, setsid};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long connections are left waiting after one could not be taken.
const ACCEPT_INTERVAL: Duration = Duration::from_secs(1);

/// The shim cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The process was not started as a shim is.
    #[error("{op}")]
    Setup {
        /// What was done.
        op: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel reports no events any more.
    #[error("wait for events")]
    Wait(#[source] Errno),
}

impl ShimError {
    fn setup<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Setup {
            op,
            source: source.into(),
        }
    }
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) paths: PodPaths,
    pub(crate) witness: SingleThreaded,
    pub(crate) poller: Poller,
    pub(crate) keys: Keys,
    pub(crate) signals: Watched<SignalFd>,
    listener: Watched<OwnedFd>,
    pub(crate) connections: Connections,
    pub(crate) pod: Pod,
    /// Boxed: a node of the tree has room for eleven.
    pub(crate) containers: BTreeMap<Key, Box<Container>>,
    pub(crate) execs: BTreeMap<Key, Exec>,
    pub(crate) unclaimed: Unclaimed,
    pub(crate) scratch: Scratch,
    /// Whether its runtime directory names it.
    is_recorded: bool,
    heap: Heap,
    /// When connections are taken again, after the shim ran out of descriptors for them.
    accept_again: Option<Instant>,
    pub(crate) closing: Option<Closing>,
}

/// Whether there may be memory to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heap {
    Trimmed,
    Used,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Wait,
    End,
}

/// Runs the shim of the pod with this runtime directory until it is told to end. Its socket is the
/// descriptor that [`crisp_shim_api::Listener::spawn`] leaves it.
///
/// # Errors
/// See [`ShimError`]; the pod is left as it is.
pub fn run(paths: PodPaths) -> Result<(), ShimError> {
    memory::prefer_small_heap();
    close_on_exec().map_err(ShimError::setup("close_range"))?;
    let listener = inherited(LISTENER_FD).map_err(ShimError::setup("take the socket"))?;
    let mut shim = Shim::new(paths, listener)?;
    shim.work()
}

impl Shim {
    fn new(paths: PodPaths, listener: OwnedFd) -> Result<Self, ShimError> {
        let witness = SingleThreaded::verify().map_err(ShimError::setup("have one thread"))?;
        // Fails for a process that leads a group already, which is as good.
        let _ = setsid();
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        set_child_subreaper().map_err(ShimError::setup("become a subreaper"))?;
        point!("shim.begun");
        let poller = Poller::new().map_err(ShimError::setup("epoll_create"))?;
        let signals = block_signals().map_err(ShimError::setup("signalfd"))?;
        let watched = ShimError::setup("watch signals");
        let signals = poller
            .watch(signals, Event::Signal, Interest::Read)
            .map_err(watched)?;
        nonblocking(&listener).map_err(ShimError::setup("fcntl(F_SETFL)"))?;
        let watched = ShimError::setup("watch the listening socket");
        let listener = poller
            .watch(listener, Event::Connecting, Interest::Read)
            .map_err(watched)?;
        journal!("shim {} of {}", Pid::this(), paths.runtime_dir().display());
        Ok(Self {
            connections: Connections::new(poller.clone()),
            paths,
            witness,
            poller,
            keys: Keys::default(),
            signals,
            listener,
            pod: Pod::New,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            unclaimed: Unclaimed::default(),
            scratch: Scratch::default(),
            is_recorded: false,
            heap: Heap::Used,
            accept_again: None,
            closing: None,
        })
    }

    fn work(&mut self) -> Result<(), ShimError> {
        loop {
            for (event, ready) in self.wait()? {
                self.handle(event, ready);
            }
            if self.pass_time() == Next::End {
                return Ok(());
            }
        }
    }

    /// Waits for events. Before it really waits, it does what can wait until there are none.
    fn wait(&mut self) -> Result<Vec<(Event, Readiness)>, ShimError> {
        if self.scratch.is_held() || self.heap == Heap::Used {
            let ready = self.events(Some(Instant::now()))?;
            if !ready.is_empty() {
                return Ok(ready);
            }
            self.record()?;
            self.scratch.release();
            if self.heap == Heap::Used {
                memory::trim_heap();
                memory::trim_stack(&self.witness);
                self.heap = Heap::Trimmed;
            }
        }
        self.events(self.deadline())
    }

    fn events(&self, deadline: Option<Instant>) -> Result<Vec<(Event, Readiness)>, ShimError> {
        let ready = self.poller.wait(deadline).map_err(ShimError::Wait)?;
        Ok(ready.collect())
    }

    /// Writes down which process it is. For a daemon that cannot reach it: who has just asked for something can.
    fn record(&mut self) -> Result<(), ShimError> {
        if !self.is_recorded {
            let us = ShimPid::current().map_err(ShimError::setup("read /proc/self/stat"))?;
            us.write(&self.paths)
                .map_err(ShimError::setup("write shim.pid"))?;
            point!("shim.pid-written");
            self.is_recorded = true;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event, ready: Readiness) {
        if !matches!(event, Event::Stdout(_) | Event::Stderr(_)) {
            self.heap = Heap::Used;
        }
        match event {
            Event::Connecting => self.accept(),
            Event::Signal => self.reap(),
            Event::PauseReport => self.pause_reported(),
            Event::Connection(key) => self.serve(key, ready),
            Event::ContainerReport(key) => self.container_reported(key),
            Event::ExecReport(key) => self.exec_reported(key),
            Event::Stdout(key) => self.output_ready(key, Stream::Stdout),
            Event::Stderr(key) => self.output_ready(key, Stream::Stderr),
            Event::Stdin(key) => {
                if let Some(container) = self.containers.get_mut(&key) {
                    container.stdio.stdin_ready(ready);
                }
            }
            Event::ClientInput(key) => {
                if let Some(container) = self.container_of_client(key) {
                    container.stdio.input_ready(key);
                }
            }
            Event::ClientOutput(key) => {
                if let Some(container) = self.container_of_client(key) {
                    container.stdio.detach(key);
                }
            }
        }
    }

    fn accept(&mut self) {
        if self
            .connections
            .accept(self.listener.as_fd(), &mut self.keys)
            == Accepted::No
        {
            self.listener.set_interest(Interest::Paused);
            self.accept_again = Some(Instant::now() + ACCEPT_INTERVAL);
        }
    }

    fn serve(&mut self, connection: Key, ready: Readiness) {
        for Incoming { request, fds } in self.connections.turn(connection, ready) {
            let reply_to = ReplyTo {
                connection,
                request_id: request.id,
            };
            if let Some(body) = request.body {
                self.answer(reply_to, body, fds);
            }
        }
    }

    fn output_ready(&mut self, key: Key, stream: Stream) {
        if let Some(container) = self.containers.get_mut(&key) {
            container.stdio.output_ready(stream, &mut self.scratch);
        }
    }

    fn container_of_client(&mut self, client: Key) -> Option<&mut Container> {
        let mut containers = self.containers.values_mut().map(Box::as_mut);
        containers.find(|container| container.stdio.has_client(client))
    }

    /// The next time at which there is something to do without an event.
    fn deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(|c| c.deadline());
        let execs = self.execs.values().filter_map(Exec::deadline);
        let closing = self.closing.iter().map(Closing::next);
        let accept_again = self.accept_again.into_iter();
        containers
            .chain(execs)
            .chain(closing)
            .chain(accept_again)
            .min()
    }

    /// Does what is due.
    fn pass_time(&mut self) -> Next {
        let now = Instant::now();
        if self.accept_again.is_some_and(|again| now >= again) {
            self.listener.set_interest(Interest::Read);
            self.accept_again = None;
        }
        for exec in self.execs.values_mut() {
            let container = self.containers.get(&exec.container);
            exec.enforce_timeout(container.map(Box::as_ref), now);
        }
        self.end_containers();
        self.close_down(now)
    }

    /// Containers of which a process is left.
    pub(crate) fn has_live_containers(&self) -> bool {
        !self.containers.values().all(|c| c.has_ended())
    }
}

/// The signals that matter come through a descriptor; those by which somebody might want to end the
/// shim come there too and are let lie, because only the daemon may.
fn block_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.extend([
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}
