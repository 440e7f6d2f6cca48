//! One conversation with criu, of packets over its standard input:
//!
//! ```text
//!  client ── Request DUMP ──▶ criu      seizes the processes, writes their images
//!         ◀── NOTIFY step ──            at every step; it waits for the answer
//!         ── NOTIFY go_on ──▶
//!         ◀── NOTIFY post-dump ──       all is written and the processes still stand
//!         ── NOTIFY go_on ──▶           lets them go on, and writes its figures
//!         ◀── Response DUMP ──          how it went; criu ends
//! ```
//! An answer that does not let it go on, or none because the client has died, has criu undo what it did.

use crate::Error;
use crate::child::{PATIENCE, Running, readable, reason};
use crate::message::{Kind, Options, Request, Response};
use crisp_crash::point;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use prost::Message;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What criu logs, in the work directory.
pub const DUMP_LOG: &str = "dump.log";

/// The most that a packet of criu's has, in bytes; it sends messages of errors.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// How long criu may take to stop all processes.
const STOPPING: Duration = Duration::from_secs(10);

/// The largest deleted file that a process has open and that is dumped with it, in bytes.
const GHOST_BYTES_MAX: u32 = 256 << 20;

/// `LOG_DEBUG` of criu: what an answer to "why not" is looked for in.
const LOG_LEVEL: i32 = 4;

/// criu's name of the step at which all is written and the processes still stand.
const WRITTEN: &str = "post-dump";

/// What to dump, and to where.
#[derive(Debug)]
pub struct Dump<'a> {
    /// The root of the tree of processes, which all go on afterwards.
    pub pid: u32,
    /// Takes the images.
    pub images_dir: &'a Path,
    /// Takes the log and the figures of the dump.
    pub work_dir: &'a Path,
    /// What is not dumped because it is there again when the tree is restored: `TYPE[ID]:NAME`.
    pub external: Vec<String>,
    pub connections: Connections,
}

/// What is dumped of TCP connections. Never their state: for that all packets of the network namespace
/// would be dropped meanwhile, and for ever should criu be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// There must be none ([`Error::Connected`]).
    None,
    /// They are as if their peer had closed them. Whoever restores the tree has to tell criu so, too
    /// (`--tcp-close`).
    Closed,
}

/// What criu logs of a connection where there must be none.
const CONNECTED: &str = "Connected TCP socket";

impl Dump<'_> {
    /// Dumps, and calls `written` while the processes still stand. When that fails, there is no dump.
    ///
    /// # Errors
    /// Any of [`Error`], or what `written` gives. [`Error::TimedOut`] comes when criu takes a step after
    /// the deadline, or none until [`PATIENCE`] has gone by, too.
    pub fn run<E: From<Error>>(
        &self,
        command: &mut Command,
        deadline: Instant,
        written: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .map_err(Error::io("make a socket for criu"))?;
        let images =
            File::open(self.images_dir).map_err(Error::io("open the images' directory"))?;
        let work = File::open(self.work_dir).map_err(Error::io("open the work directory"))?;
        command.args(["swrk", "0"]).stdin(theirs);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::start(command)?;
        // Its copies of our descriptors would keep the socket open.
        command.stdin(Stdio::null());
        let mut talk = Talk {
            socket: ours,
            deadline,
            refused: None,
        };
        let talked = talk.dump(self.options(&images, &work, deadline), written);
        let refused = talk.refused.take();
        drop(talk);
        self.end(running, talked, refused, deadline + PATIENCE)
    }

    /// How a conversation that is over has gone.
    fn end<E: From<Error>>(
        &self,
        running: Running,
        talked: Result<(), Broken>,
        refused: Option<Refused<E>>,
        give_up: Instant,
    ) -> Result<(), E> {
        if let Err(Broken::Hangs) = talked {
            return Err(running.kill().into());
        }
        let program = running.program.clone();
        let status = running.end(give_up)?;
        match (refused, talked) {
            (Some(Refused::Late), _) => Err(Error::TimedOut { program }.into()),
            (Some(Refused::ByCaller(error)), _) => Err(error),
            (None, Err(Broken::Io(error))) => Err(error.into()),
            (None, Ok(())) if status.success() => Ok(()),
            (None, _) => {
                let reason = reason(status, &[&self.work_dir.join(DUMP_LOG)]);
                let error = match reason.contains(CONNECTED) {
                    true => Error::Connected,
                    false => Error::Failed { program, reason },
                };
                Err(error.into())
            }
        }
    }

    fn options(&self, images: &File, work: &File, deadline: Instant) -> Options {
        let left = deadline.saturating_duration_since(Instant::now());
        let stopping = STOPPING.min(left).as_secs().max(1);
        Options {
            images_dir_fd: images.as_raw_fd(),
            work_dir_fd: Some(work.as_raw_fd()),
            pid: Some(i32::try_from(self.pid).unwrap_or(i32::MAX)),
            leave_running: Some(true),
            file_locks: Some(true),
            log_level: Some(LOG_LEVEL),
            log_file: Some(DUMP_LOG.to_owned()),
            notify: Some(true),
            manage_cgroups: Some(true),
            ghost_limit: Some(GHOST_BYTES_MAX),
            external: self.external.clone(),
            timeout: u32::try_from(stopping).ok(),
            orphan_pts_master: Some(true),
            tcp_close: (self.connections == Connections::Closed).then_some(true),
        }
    }
}

/// Why a conversation did not come to a dump.
enum Broken {
    /// criu says nothing any more.
    Hangs,
    /// criu has said so, or has died.
    Failed,
    Io(Error),
}

/// Why criu was told to undo what it did.
enum Refused<E> {
    Late,
    ByCaller(E),
}

struct Talk<E> {
    socket: OwnedFd,
    deadline: Instant,
    refused: Option<Refused<E>>,
}

impl<E> Talk<E> {
    fn dump(
        &mut self,
        options: Options,
        written: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Broken> {
        let mut request = Request {
            options: Some(options),
            ..Request::default()
        };
        request.set_kind(Kind::Dump);
        self.send(&request)?;
        let mut written = Some(written);
        loop {
            let response = self.receive()?;
            match response.kind() {
                _ if !response.success => return Err(Broken::Failed),
                Kind::Notify => {
                    let step = response.notification.unwrap_or_default();
                    let go_on = self.may_go_on(step.step(), &mut written);
                    let mut answer = Request {
                        go_on: Some(go_on),
                        ..Request::default()
                    };
                    answer.set_kind(Kind::Notify);
                    point!("criu.stepped");
                    self.send(&answer)?;
                }
                Kind::Dump => return Ok(()),
                Kind::Empty => return Err(Broken::Failed),
            }
        }
    }

    /// After the last step that can be refused, and after a refusal, criu tells only of what it puts back
    /// in order.
    fn may_go_on(
        &mut self,
        step: &str,
        written: &mut Option<impl FnOnce() -> Result<(), E>>,
    ) -> bool {
        if written.is_none() || self.refused.is_some() {
            return true;
        }
        self.refused = match Instant::now() > self.deadline {
            true => Some(Refused::Late),
            false if step == WRITTEN => {
                let done = written.take().map_or(Ok(()), |written| written());
                done.err().map(Refused::ByCaller)
            }
            false => None,
        };
        self.refused.is_none()
    }

    fn send(&self, request: &Request) -> Result<(), Broken> {
        let bytes = request.encode_to_vec();
        match send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(Broken::Failed),
            Err(errno) => Err(Broken::Io(Error::io("talk to criu")(errno))),
        }
    }

    fn receive(&self) -> Result<Response, Broken> {
        let give_up = self.deadline + PATIENCE;
        if !readable(self.socket.as_fd(), give_up).map_err(Broken::Io)? {
            return Err(Broken::Hangs);
        }
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let flags = MsgFlags::MSG_DONTWAIT;
        match recv(self.socket.as_raw_fd(), &mut packet, flags) {
            Ok(0) | Err(Errno::ECONNRESET) => Err(Broken::Failed),
            Ok(bytes) => Response::decode(&packet[..bytes]).map_err(|_| Broken::Failed),
            Err(errno) => Err(Broken::Io(Error::io("hear from criu")(errno))),
        }
    }
}

#[cfg(test)]
mod tests;
