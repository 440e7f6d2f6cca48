//! Standard input of a container, which the shim keeps open between clients.

use crate::poller::{Event, Interest, Key, Poller, Watched};
use nix::errno::Errno;
use nix::unistd::write;
use std::os::fd::OwnedFd;

/// Input read from a client at once, and so the most that waits for the container.
pub(crate) const INPUT_BYTES: usize = 4096;

/// Ctrl-D: what ends the input of a terminal, whose one side cannot be closed alone.
pub(crate) const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// What standard input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Pipe,
    Terminal,
}

/// When standard input is closed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// With the container.
    Container,
    /// When the first client has said all it had to (CRI `stdin_once`).
    FirstClient,
}

/// Whether clients may send more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Yes.
    Open,
    /// Not before the container has read what waits.
    Held,
    /// Never again.
    Closed,
}

/// The way into a container.
#[derive(Debug)]
pub(crate) struct Stdin {
    sink: Option<Watched<OwnedFd>>,
    medium: Medium,
    lifetime: Lifetime,
    /// Without memory of its own when empty.
    pending: Vec<u8>,
    /// To be closed when nothing is pending.
    ending: bool,
}

impl Stdin {
    /// The input of a container that has none.
    pub(crate) fn none() -> Self {
        Self {
            sink: None,
            medium: Medium::Pipe,
            lifetime: Lifetime::Container,
            pending: Vec::new(),
            ending: false,
        }
    }

    /// Input through `sink`, which does not block.
    pub(crate) fn new(
        poller: &Poller,
        key: Key,
        sink: OwnedFd,
        medium: Medium,
        lifetime: Lifetime,
    ) -> nix::Result<Self> {
        let sink = poller.watch(sink, Event::Stdin(key), Interest::Hangup)?;
        Ok(Self {
            sink: Some(sink),
            medium,
            lifetime,
            ..Self::none()
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_some() && !self.ending
    }

    pub(crate) fn flow(&self) -> Flow {
        match (&self.sink, self.pending.is_empty()) {
            (None, _) => Flow::Closed,
            (Some(_), true) => Flow::Open,
            (Some(_), false) => Flow::Held,
        }
    }

    /// Passes bytes on; what the container does not take yet is kept. Only called while the flow is
    /// open.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    /// The container takes more.
    pub(crate) fn flush(&mut self) {
        let Some(sink) = &self.sink else {
            return;
        };
        while !self.pending.is_empty() {
            match write(&**sink, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return sink.set_interest(Interest::Write),
                Err(_) => return self.abort(),
            }
        }
        sink.set_interest(Interest::Hangup);
        self.pending = Vec::new();
        if self.ending {
            self.abort();
        }
    }

    /// A client has said all it had to say.
    pub(crate) fn client_ended(&mut self) {
        if self.lifetime == Lifetime::FirstClient {
            self.close();
        }
    }

    /// Closes it, after what waits.
    pub(crate) fn close(&mut self) {
        if !self.is_open() {
            return;
        }
        self.ending = true;
        if self.medium == Medium::Terminal {
            self.pending.extend_from_slice(END_OF_TRANSMISSION);
        }
        self.flush();
    }

    /// Closes it at once: nobody reads it any more.
    pub(crate) fn abort(&mut self) {
        *self = Self {
            medium: self.medium,
            lifetime: self.lifetime,
            ..Self::none()
        };
    }
}
