//! What the two stages tell the caller, over one SOCK_SEQPACKET socket.
//!
//! The helper of a runtime with a command line ([`crate::command`]) speaks for both stages.
//!
//! | packet | from | means |
//! |---|---|---|
//! | `S` pid, with a pidfd | stage one | stage two was spawned |
//! | `H` | stage one | there are hooks for when the container has ended |
//! | `T`, with a pty's master | stage two | its terminal |
//! | `R` | stage two | all is set up; only the execution can fail now |
//! | `F` error | either | it gives up |
//! | end of file | | both have closed the socket: executed after `R`, dead without it |
//!
//! Integers are little-endian; strings end with a zero byte, which no path contains.

use crate::error::{Reason, StartError};
use crisp_sys::process::Spawned;
use crisp_sys::socket::{Wait, receive, send};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Longest packet: an error with two paths in it. Longer texts are cut.
const PACKET_MAX: usize = 4096;
const TEXT_MAX: usize = PACKET_MAX / 2 - 16;

/// The children's end of the socket.
#[derive(Debug)]
pub(crate) struct Reporter(pub(crate) OwnedFd);

impl Reporter {
    pub(crate) fn spawned(&self, spawned: &Spawned) -> io::Result<()> {
        let mut packet = vec![b'S'];
        packet.extend(spawned.pid.as_raw().to_le_bytes());
        self.send(&packet, &[spawned.pidfd.as_fd()])
    }

    pub(crate) fn poststop_hooks(&self) -> io::Result<()> {
        self.send(b"H", &[])
    }

    pub(crate) fn terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        self.send(b"T", &[master])
    }

    /// An error means that the caller is gone or has given up.
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.send(b"R", &[])
    }

    pub(crate) fn failed(&self, error: &StartError) -> io::Result<()> {
        self.send(&encode(error), &[])
    }

    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.as_fd(), packet, fds, Wait::Block).map(drop)
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the caller hears.
#[derive(Debug)]
pub(crate) enum Report {
    Spawned(Spawned),
    PoststopHooks,
    Terminal(OwnedFd),
    Ready,
    Failed(StartError),
    End,
}

/// The next report; `WouldBlock` when there is none yet.
pub(crate) fn next(socket: BorrowedFd<'_>) -> io::Result<Report> {
    let mut buffer = [0; PACKET_MAX];
    let received = receive(socket, &mut buffer, Wait::Never)?;
    let packet = &buffer[..received.bytes];
    decode(packet, received.fds).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn decode(packet: &[u8], mut fds: Vec<OwnedFd>) -> Option<Report> {
    let Some((kind, rest)) = packet.split_first() else {
        return Some(Report::End);
    };
    Some(match kind {
        b'S' => Report::Spawned(Spawned {
            pid: Pid::from_raw(i32::from_le_bytes(rest.try_into().ok()?)),
            pidfd: fds.pop()?,
        }),
        b'H' => Report::PoststopHooks,
        b'T' => Report::Terminal(fds.pop()?),
        b'R' => Report::Ready,
        b'F' => Report::Failed(decode_error(rest)?),
        _ => return None,
    })
}

pub(crate) fn encode(error: &StartError) -> Vec<u8> {
    let (variant, reason, errno, text, path): (u8, u8, Errno, &str, &OsStr) = match error {
        StartError::NotExecutable { path, reason } => {
            let (number, errno) = reason.number();
            (0, number, errno, "", path.as_os_str())
        }
        StartError::InvalidSpec(text) => (1, 0, Errno::EINVAL, text, OsStr::new("")),
        StartError::Io { step, path, errno } => (2, 0, *errno, step, path.as_os_str()),
        StartError::Refused { program, message } => {
            (5, 0, Errno::EINVAL, message, program.as_os_str())
        }
        StartError::Died => (3, 0, Errno::ESRCH, "", OsStr::new("")),
        StartError::Hook { path, reason } => (4, 0, Errno::ECANCELED, reason, path.as_os_str()),
    };
    let mut packet = vec![b'F', variant, reason];
    packet.extend((errno as i32).to_le_bytes());
    for text in [text.as_bytes(), path.as_bytes()] {
        packet.extend(text.iter().take(TEXT_MAX).filter(|byte| **byte != 0));
        packet.push(0);
    }
    packet
}

pub(crate) fn decode_error(packet: &[u8]) -> Option<StartError> {
    let (&[variant, reason, e0, e1, e2, e3], texts) = packet.split_first_chunk::<6>()?;
    let errno = Errno::from_raw(i32::from_le_bytes([e0, e1, e2, e3]));
    let mut texts = texts.split(|byte| *byte == 0);
    let text = String::from_utf8_lossy(texts.next()?).into_owned();
    let path = OsStr::from_bytes(texts.next()?).into();
    Some(match variant {
        0 => StartError::NotExecutable {
            path,
            reason: Reason::from_number(reason, errno)?,
        },
        1 => StartError::InvalidSpec(text),
        2 => StartError::Io {
            step: text,
            path,
            errno,
        },
        3 => StartError::Died,
        4 => StartError::Hook { path, reason: text },
        5 => StartError::Refused {
            program: path,
            message: text,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, Reporter) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (ours, Reporter(theirs))
    }

    #[test]
    fn errors_arrive_as_they_were_sent() {
        let (ours, reporter) = pair();
        for sent in [
            StartError::NotExecutable {
                path: "/bin/x".into(),
                reason: Reason::WrongFormat,
            },
            StartError::invalid("process is missing"),
            StartError::Io {
                step: "open".into(),
                path: "/etc/ü".into(),
                errno: Errno::EACCES,
            },
            StartError::Refused {
                program: "/usr/bin/runc".into(),
                message: "no cgroup".into(),
            },
            StartError::Died,
            StartError::Hook {
                path: "/bin/hook".into(),
                reason: "prestart: exited with 1: no".into(),
            },
        ] {
            reporter.failed(&sent).unwrap();
            match next(ours.as_fd()).unwrap() {
                Report::Failed(got) => assert_eq!(got, sent),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_and_silence_is_told_from_the_end() {
        let (ours, reporter) = pair();
        reporter
            .failed(&StartError::invalid("x".repeat(100_000)))
            .unwrap();
        assert!(matches!(next(ours.as_fd()).unwrap(), Report::Failed(_)));
        let nothing = next(ours.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(reporter);
        assert!(matches!(next(ours.as_fd()).unwrap(), Report::End));
    }

    #[test]
    fn garbage_is_refused() {
        for packet in [&b"S12"[..], b"T", b"F", b"F\x09\0\0\0\0\0\0\0", b"?"] {
            assert!(decode(packet, Vec::new()).is_none(), "{packet:?}");
        }
    }
}
