//! The daemons that are connected: usually one, two while an old one hands over to a new one.

use crate::failure::RequestError;
use crate::journal::{Chain, journal};
use crate::poller::{Event, Interest, Key, Keys, Poller, Readiness, Watched};
use crisp_shim_api::message::{Packet, Request, event, packet, reply};
use crisp_shim_api::{ConnectError, PacketError, accept, try_recv, try_send};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections at one time; more are closed at once.
const MAX_CONNECTIONS: usize = 8;

/// Packets that wait for a daemon to read. One that leaves more unread is cut off: it connects again
/// and lists what it missed.
const MAX_UNSENT_PACKETS: usize = 8192;

/// Requests that may wait for one answer: a daemon repeats what an earlier one has asked for.
const MAX_WAITERS: usize = 64;

/// Packets taken from one connection before others get their turn.
const PACKETS_PER_TURN: usize = 16;

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyTo {
    pub(crate) connection: Key,
    pub(crate) request_id: u64,
}

/// Who waits for the same answer.
#[derive(Debug, Clone)]
pub(crate) struct Waiters(Vec<ReplyTo>);

impl Waiters {
    pub(crate) fn new(first: ReplyTo) -> Self {
        Self(vec![first])
    }

    /// One more waits, unless too many do.
    pub(crate) fn join(&mut self, to: ReplyTo) -> Result<(), RequestError> {
        if self.0.len() >= MAX_WAITERS {
            let text = format!("{MAX_WAITERS} requests wait for the same answer");
            return Err(RequestError::Invalid(text));
        }
        self.0.push(to);
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ReplyTo> + '_ {
        self.0.iter().copied()
    }
}

/// An answer: a message and the descriptors that travel with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: reply::Body,
    pub(crate) fds: Vec<OwnedFd>,
}

impl From<reply::Body> for Answer {
    fn from(body: reply::Body) -> Self {
        Self {
            body,
            fds: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Connection {
    socket: Watched<OwnedFd>,
    greeted: Greeted,
    unsent: VecDeque<(Packet, Vec<OwnedFd>)>,
}

/// Whether the peer has said which version it speaks. Events go only to those that have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeted {
    NotYet,
    Yes,
}

/// Whether a connection that waited is taken, be it only to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    Yes,
    /// It still waits.
    No,
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) request: Request,
    pub(crate) fds: Vec<OwnedFd>,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections {
    poller: Poller,
    open: BTreeMap<Key, Connection>,
    /// Whose turn it was last. What it asked for before it went is done, though nobody hears the answer.
    served: Option<(Key, Greeted)>,
}

impl Connections {
    pub(crate) fn new(poller: Poller) -> Self {
        Self {
            poller,
            open: BTreeMap::new(),
            served: None,
        }
    }

    /// Takes a connection that waits at the listening socket.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, keys: &mut Keys) -> Accepted {
        let socket = match accept(listener) {
            Ok(socket) => socket,
            Err(error) => {
                journal!("connection refused: {}", Chain(&error));
                return match error {
                    ConnectError::ForeignPeer { .. } => Accepted::Yes,
                    _ => Accepted::No,
                };
            }
        };
        if self.open.len() >= MAX_CONNECTIONS {
            journal!("connection refused: {MAX_CONNECTIONS} are open");
            return Accepted::Yes;
        }
        let key = keys.next();
        match self
            .poller
            .watch(socket, Event::Connection(key), Interest::Read)
        {
            Ok(socket) => {
                let unsent = VecDeque::new();
                let greeted = Greeted::NotYet;
                self.open.insert(
                    key,
                    Connection {
                        socket,
                        greeted,
                        unsent,
                    },
                );
            }
            Err(error) => journal!("connection refused: {error}"),
        }
        Accepted::Yes
    }

    /// Sends what waits, and takes the requests that have come. What is no request closes the
    /// connection.
    pub(crate) fn turn(&mut self, key: Key, ready: Readiness) -> Vec<Incoming> {
        let mut incoming = Vec::new();
        let Some(connection) = self.open.get_mut(&key) else {
            return incoming;
        };
        self.served = Some((key, connection.greeted));
        let mut result = if ready.writable() {
            connection.flush()
        } else {
            Ok(())
        };
        if result.is_ok() && ready.readable() {
            result = connection.receive(&mut incoming);
        }
        if let Err(error) = result {
            self.close(key, &error);
        }
        incoming
    }

    /// Marks that the peer has greeted, so that events go to it.
    pub(crate) fn greeted(&mut self, key: Key) {
        if let Some(connection) = self.open.get_mut(&key) {
            connection.greeted = Greeted::Yes;
        }
        self.served = Some((key, Greeted::Yes));
    }

    /// Whether the peer has greeted, be it gone since its turn.
    pub(crate) fn has_greeted(&self, key: Key) -> bool {
        let open = self.open.get(&key).map(|connection| connection.greeted);
        let served = self.served.filter(|(served, _)| *served == key);
        open.or(served.map(|(_, greeted)| greeted)) == Some(Greeted::Yes)
    }

    /// Answers a request; when its connection is gone, the answer and its descriptors are dropped.
    pub(crate) fn reply(&mut self, to: ReplyTo, answer: Answer) {
        self.send(
            to.connection,
            crisp_shim_api::reply(to.request_id, answer.body),
            answer.fds,
        );
    }

    /// Tells all who have greeted.
    pub(crate) fn broadcast(&mut self, body: &event::Body) {
        self.tell(body, |_| true);
    }

    /// Tells all who have greeted, but those who wait for an answer.
    pub(crate) fn tell_others(&mut self, waiters: &Waiters, body: &event::Body) {
        self.tell(body, |key| waiters.iter().all(|to| to.connection != key));
    }

    fn tell(&mut self, body: &event::Body, is_meant: impl Fn(Key) -> bool) {
        let keys: Vec<Key> = self.open.keys().copied().collect();
        for key in keys {
            if self.has_greeted(key) && is_meant(key) {
                self.send(key, crisp_shim_api::event(body.clone()), Vec::new());
            }
        }
    }

    /// Closes all, when the shim ends.
    pub(crate) fn close_all(&mut self) {
        self.open.clear();
    }

    fn send(&mut self, key: Key, packet: Packet, fds: Vec<OwnedFd>) {
        let Some(connection) = self.open.get_mut(&key) else {
            return;
        };
        if let Err(error) = connection.send(packet, fds) {
            self.close(key, &error);
        }
    }

    fn close(&mut self, key: Key, why: &ConnectionError) {
        match why {
            ConnectionError::Packet(PacketError::Closed) => journal!("connection closed"),
            why => journal!("connection cut off: {}", Chain(why)),
        }
        self.open.remove(&key);
    }
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no packet could be passed")]
    Packet(#[from] PacketError),
    #[error("the peer sent a packet that is no request")]
    NoRequest,
    #[error("the peer left {MAX_UNSENT_PACKETS} packets unread")]
    TooSlow,
}

impl Connection {
    fn receive(&mut self, incoming: &mut Vec<Incoming>) -> Result<(), ConnectionError> {
        for _ in 0..PACKETS_PER_TURN {
            match try_recv(self.socket.as_fd()) {
                Ok((
                    Packet {
                        body: Some(packet::Body::Request(request)),
                    },
                    fds,
                )) => {
                    incoming.push(Incoming { request, fds });
                }
                Ok(_) => return Err(ConnectionError::NoRequest),
                Err(PacketError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn send(&mut self, packet: Packet, fds: Vec<OwnedFd>) -> Result<(), ConnectionError> {
        if self.unsent.len() >= MAX_UNSENT_PACKETS {
            return Err(ConnectionError::TooSlow);
        }
        self.unsent.push_back((packet, fds));
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some((packet, fds)) = self.unsent.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match try_send(self.socket.as_fd(), packet, &fds) {
                Ok(()) => self.unsent.pop_front(),
                Err(PacketError::WouldBlock) => {
                    self.socket.set_interest(Interest::ReadWrite);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
        }
        self.socket.set_interest(Interest::Read);
        Ok(())
    }
}
