//! What the shim waits for: the one closed enum of its events, and descriptors that report them.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Events taken from the kernel at once.
const EVENTS_PER_TURN: usize = 32;

/// Names a connection, container, exec'd process or attached client. Never used twice, so that an
/// event that comes late finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u64);

/// Makes keys.
#[derive(Debug, Default)]
pub(crate) struct Keys(u64);

impl Keys {
    pub(crate) fn next(&mut self) -> Key {
        self.0 += 1;
        Key(self.0)
    }
}

/// All that can happen to a shim but the passing of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A daemon connects.
    Connecting,
    /// A signal came: a child ended.
    Signal,
    /// The process that becomes pause has something to report.
    PauseReport,
    /// A connection has a packet, room for one, or has ended.
    Connection(Key),
    /// The process that becomes a container's first one has something to report.
    ContainerReport(Key),
    /// The process that becomes an exec'd one has something to report.
    ExecReport(Key),
    /// A container wrote to its standard output or terminal, or its terminal takes input.
    Stdout(Key),
    /// A container wrote to its standard error.
    Stderr(Key),
    /// A container's standard input takes bytes, or nobody reads it any more.
    Stdin(Key),
    /// An attached client sent input, or will send no more.
    ClientInput(Key),
    /// An attached client reads no more output.
    ClientOutput(Key),
}

/// The kind of an event is kept in the highest byte of what epoll hands back, the key in the others.
const KIND_SHIFT: u32 = 56;

impl Event {
    fn to_data(self) -> u64 {
        let (kind, key) = match self {
            Self::Connecting => (0, Key(0)),
            Self::Signal => (1, Key(0)),
            Self::PauseReport => (2, Key(0)),
            Self::Connection(key) => (3, key),
            Self::ContainerReport(key) => (4, key),
            Self::ExecReport(key) => (5, key),
            Self::Stdout(key) => (6, key),
            Self::Stderr(key) => (7, key),
            Self::Stdin(key) => (8, key),
            Self::ClientInput(key) => (9, key),
            Self::ClientOutput(key) => (10, key),
        };
        kind << KIND_SHIFT | key.0
    }

    fn from_data(data: u64) -> Option<Self> {
        let key = Key(data & ((1 << KIND_SHIFT) - 1));
        Some(match data >> KIND_SHIFT {
            0 => Self::Connecting,
            1 => Self::Signal,
            2 => Self::PauseReport,
            3 => Self::Connection(key),
            4 => Self::ContainerReport(key),
            5 => Self::ExecReport(key),
            6 => Self::Stdout(key),
            7 => Self::Stderr(key),
            8 => Self::Stdin(key),
            9 => Self::ClientInput(key),
            10 => Self::ClientOutput(key),
            _ => return None,
        })
    }
}

/// What is to be reported of a descriptor. That its peer is gone is always reported, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Nothing; that the peer is gone is reported once at most.
    Paused,
    Hangup,
    Read,
    Write,
    ReadWrite,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Paused => EpollFlags::EPOLLONESHOT,
            Self::Hangup => EpollFlags::empty(),
            Self::Read => EpollFlags::EPOLLIN,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::ReadWrite => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness(EpollFlags);

impl Readiness {
    /// There is something to read, be it the end.
    pub(crate) fn readable(self) -> bool {
        self.0
            .intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
    }

    pub(crate) fn writable(self) -> bool {
        self.0.contains(EpollFlags::EPOLLOUT)
    }

    /// The peer is gone for good.
    pub(crate) fn hung_up(self) -> bool {
        self.0
            .intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
    }
}

/// The descriptors that are waited for.
#[derive(Debug, Clone)]
pub(crate) struct Poller(Rc<Epoll>);

impl Poller {
    pub(crate) fn new() -> nix::Result<Self> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(|epoll| Self(Rc::new(epoll)))
    }

    /// Has `event` reported for a descriptor until the result is dropped.
    pub(crate) fn watch<F: AsFd>(
        &self,
        fd: F,
        event: Event,
        interest: Interest,
    ) -> nix::Result<Watched<F>> {
        self.0
            .add(&fd, EpollEvent::new(interest.flags(), event.to_data()))?;
        Ok(Watched {
            fd: Some(fd),
            event,
            poller: self.clone(),
        })
    }

    /// Waits until something is ready, or until `deadline`.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
    ) -> nix::Result<impl Iterator<Item = (Event, Readiness)> + use<>> {
        let mut ready = [EpollEvent::empty(); EVENTS_PER_TURN];
        let count = match self.0.wait(&mut ready, timeout(deadline)) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        Ok(ready.into_iter().take(count).filter_map(|ready| {
            Event::from_data(ready.data()).map(|event| (event, Readiness(ready.events())))
        }))
    }
}

/// Rounded up to whole milliseconds: waking too early would spin.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else {
        return EpollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let left_ms = left
        .as_nanos()
        .div_ceil(Duration::from_millis(1).as_nanos());
    EpollTimeout::try_from(left_ms).unwrap_or(EpollTimeout::MAX)
}

/// A descriptor that reports an event, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watched<F: AsFd> {
    /// Taken when it is no longer to be watched.
    fd: Option<F>,
    event: Event,
    poller: Poller,
}

const IS_THERE: &str = "the descriptor is taken only when this is used up or dropped";

impl<F: AsFd> Watched<F> {
    pub(crate) fn set_interest(&self, interest: Interest) {
        let mut event = EpollEvent::new(interest.flags(), self.event.to_data());
        self.poller
            .0
            .modify(&**self, &mut event)
            .expect("the descriptor is open and was added");
    }

    pub(crate) fn get_mut(&mut self) -> &mut F {
        self.fd.as_mut().expect(IS_THERE)
    }

    /// The descriptor, which is watched no more.
    pub(crate) fn into_inner(mut self) -> F {
        self.unwatch().expect(IS_THERE)
    }

    /// Closing alone would not do while a child that was just forked holds a copy.
    fn unwatch(&mut self) -> Option<F> {
        let fd = self.fd.take()?;
        let _ = self.poller.0.delete(&fd);
        Some(fd)
    }
}

impl<F: AsFd> Deref for Watched<F> {
    type Target = F;
    fn deref(&self) -> &F {
        self.fd.as_ref().expect(IS_THERE)
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        self.unwatch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_back_as_it_went() {
        let key = Key((1 << KIND_SHIFT) - 1);
        for event in [
            Event::Connecting,
            Event::Signal,
            Event::PauseReport,
            Event::Connection(key),
            Event::ContainerReport(key),
            Event::ExecReport(key),
            Event::Stdout(key),
            Event::Stderr(key),
            Event::Stdin(key),
            Event::ClientInput(key),
            Event::ClientOutput(key),
        ] {
            assert_eq!(Event::from_data(event.to_data()), Some(event));
        }
    }

    #[test]
    fn what_is_dropped_reports_no_more() {
        let poller = Poller::new().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let copy = reader.try_clone().unwrap();
        let watched = poller.watch(reader, Event::Signal, Interest::Read).unwrap();
        drop(writer);
        let now = Some(Instant::now());
        assert_eq!(poller.wait(now).unwrap().count(), 1);
        drop(watched);
        assert_eq!(poller.wait(now).unwrap().count(), 0);
        drop(copy);
    }

    #[test]
    fn a_wait_is_never_cut_short() {
        let soon = Instant::now() + Duration::from_micros(1500);
        Poller::new().unwrap().wait(Some(soon)).unwrap().count();
        assert!(Instant::now() >= soon);
    }
}
