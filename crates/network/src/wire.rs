//! One netlink socket, used synchronously: a batch of requests goes out in one system call, and the
//! kernel has worked on all of it when that call returns. All that it has to answer lies in the
//! socket's queue by then, so that nothing here waits.
//!
//! Reference: the kernel's Documentation/userspace-api/netlink/intro.rst.

use crate::error::KernelError;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// As much as the kernel puts into one datagram of a dump (`netlink_dump` in af_netlink.c).
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
/// What one batch may amount to: a table with some 20,000 host ports.
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The attribute of an extended acknowledgement that holds the kernel's message.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `struct nlmsghdr`.
const REQUEST_HEADER_BYTES: usize = 16;

/// Requests that go out together and are worked on in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    op: &'static str,
    offset: usize,
    acknowledged: bool,
    forgiven: &'static [Errno],
}

impl Batch {
    /// Appends a request that must succeed. `op` completes "cannot …".
    pub(crate) fn push<I>(&mut self, op: &'static str, flags: u16, message: I)
    where
        I: NetlinkSerializable + Into<NetlinkPayload<I>>,
    {
        self.push_forgiving(op, flags, message, &[]);
    }

    /// Appends a request that may fail with certain errors, because what it is to bring about is
    /// then already so.
    pub(crate) fn push_forgiving<I>(
        &mut self,
        op: &'static str,
        flags: u16,
        message: I,
        forgiven: &'static [Errno],
    ) where
        I: NetlinkSerializable + Into<NetlinkPayload<I>>,
    {
        let acknowledged = flags & NLM_F_ACK != 0;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let offset = self.bytes.len();
        // Attributes are padded, so that a message's length is a multiple of 4 (NLMSG_ALIGNTO).
        self.bytes.resize(offset + message.buffer_len(), 0);
        message.serialize(&mut self.bytes[offset..]);
        self.requests.push(Request {
            op,
            offset,
            acknowledged,
            forgiven,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Numbers the requests; returns the number after the last.
    fn number(&mut self, first: u32) -> u32 {
        let mut sequence = first;
        for request in &self.requests {
            NetlinkBuffer::new(&mut self.bytes[request.offset..]).set_sequence_number(sequence);
            sequence = sequence.wrapping_add(1);
        }
        sequence
    }
}

/// A refused request of a batch.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) op: &'static str,
    pub(crate) source: KernelError,
}

impl From<Refusal> for crate::Error {
    fn from(refusal: Refusal) -> Self {
        Self::Kernel {
            op: refusal.op,
            source: refusal.source,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Wire {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Wire {
    /// A socket in the daemon's own network namespace. `protocol` is one of
    /// `netlink_sys::protocols`.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        let wire = Self::over(socket.as_fd().try_clone_to_owned()?);
        // Without the privilege small batches still go through.
        let _ = setsockopt(&wire.socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES);
        Ok(wire)
    }

    /// A socket that somebody else opened, in whatever namespace.
    pub(crate) fn over(socket: OwnedFd) -> Self {
        Self {
            socket,
            sequence: 1,
            buffer: vec![0; RECEIVE_BUFFER_BYTES],
        }
    }

    /// The index of an interface of the socket's namespace, without netlink's lock.
    pub(crate) fn index_of(&self, name: &str) -> nix::Result<u32> {
        crisp_sys::interface::index_of(&self.socket, name)
    }

    /// Sends a batch and says which request was the first to be refused.
    pub(crate) fn transact(&mut self, mut batch: Batch) -> Result<(), Refusal> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.sequence;
        self.sequence = batch.number(first);
        let refusal = |request: &Request, source| Refusal {
            op: request.op,
            source,
        };
        self.send(&batch.bytes)
            .map_err(|errno| refusal(&batch.requests[0], errno.into()))?;

        let mut answers: Vec<Option<Result<(), KernelError>>> = vec![None; batch.requests.len()];
        while let Some(bytes) = self
            .receive()
            .map_err(|errno| refusal(&batch.requests[0], errno.into()))?
        {
            for (header, payload) in messages(bytes) {
                let index = header.sequence_number.wrapping_sub(first) as usize;
                if let (Some(slot), NetlinkPayload::Error(error)) =
                    (answers.get_mut(index), payload)
                {
                    // A request can be answered twice: refused itself, then with its batch.
                    if !matches!(slot, Some(Err(_))) {
                        *slot = Some(outcome(&header, &error));
                    }
                }
            }
        }
        for (request, answer) in batch.requests.iter().zip(answers) {
            match answer {
                Some(Err(error)) if !request.forgiven.contains(&error.errno) => {
                    return Err(refusal(request, error));
                }
                // The kernel found no memory for its answer.
                None if request.acknowledged => {
                    return Err(refusal(request, Errno::ENOBUFS.into()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks for one object.
    pub(crate) fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, KernelError> {
        Ok(self.query(0, message)?.into_iter().next())
    }

    /// Asks for all objects of a kind. What cannot be understood is left out: a foreign interface of
    /// a new kind must not keep pods from being started.
    pub(crate) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        self.query(NLM_F_DUMP, message)
    }

    fn query(
        &mut self,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        let mut batch = Batch::default();
        batch.push("query", flags, message);
        let sequence = self.sequence;
        self.sequence = batch.number(sequence);
        self.send(&batch.bytes)?;
        let mut found = Vec::new();
        while let Some(bytes) = self.receive()? {
            for (header, payload) in messages(bytes) {
                if header.sequence_number != sequence {
                    continue;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Error(error) => outcome(&header, &error)?,
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(Errno::from_raw(done.code.saturating_neg()).into());
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// The next datagram, or none when the kernel has said all it had to say.
    fn receive(&mut self) -> Result<Option<&[u8]>, Errno> {
        loop {
            match recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(length) => return Ok(Some(&self.buffer[..length])),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// The messages of a datagram. Those that cannot be decoded are left out.
fn messages(
    mut bytes: &[u8],
) -> impl Iterator<Item = (NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)> {
    std::iter::from_fn(move || {
        loop {
            let length = NetlinkBuffer::new_checked(bytes).ok()?.length() as usize;
            let message = &bytes[..length];
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            match NetlinkMessage::deserialize(message) {
                Ok(message) => return Some(message.into_parts()),
                Err(error) => tracing::debug!(%error, "leaving out a netlink message"),
            }
        }
    })
}

fn outcome(header: &NetlinkHeader, error: &ErrorMessage) -> Result<(), KernelError> {
    match error.code {
        None => Ok(()),
        Some(_) => Err(KernelError {
            errno: Errno::from_raw(error.raw_code().saturating_neg()),
            explanation: explanation(header.flags, &error.header).unwrap_or_default(),
        }),
    }
}

/// The kernel's own words in a refusal: an attribute after the copy of the refused request, of which
/// only the header is copied when the answer is capped.
fn explanation(flags: u16, answer: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let copied = if flags & NLM_F_CAPPED != 0 {
        REQUEST_HEADER_BYTES
    } else {
        NetlinkBuffer::new_checked(answer).ok()?.length() as usize
    };
    let attributes = answer.get(copied.next_multiple_of(4)..)?;
    let message = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = message.value();
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;

    /// A refusal with the kernel's words, as it lies in the socket's queue.
    fn refused(sequence: u32, errno: i32, words: &[u8]) -> Vec<u8> {
        let attribute = 4 + words.len();
        let length = 16 + 4 + 16 + attribute.next_multiple_of(4);
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(length).unwrap().to_ne_bytes());
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend((NLM_F_ACK_TLVS | NLM_F_CAPPED).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend((-errno).to_ne_bytes());
        bytes.extend([0xff; 16]);
        bytes.extend(u16::try_from(attribute).unwrap().to_ne_bytes());
        bytes.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend(words);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn a_refusal_is_read_with_the_kernels_words() {
        let bytes = refused(7, 17, b"already there\0");
        let (header, payload) = messages(&bytes).next().unwrap();
        let NetlinkPayload::Error(error) = payload else {
            panic!("not an error");
        };
        assert_eq!(header.sequence_number, 7);
        let error = outcome(&header, &error).unwrap_err();
        assert_eq!(error.errno, Errno::EEXIST);
        assert_eq!(error.to_string(), "File exists: already there");
    }

    #[test]
    fn a_torn_datagram_ends_the_messages() {
        let bytes = refused(7, 17, b"words\0");
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 0);
        let twice = [bytes.clone(), bytes].concat();
        assert_eq!(messages(&twice).count(), 2);
    }

    #[test]
    fn requests_are_numbered_in_order() {
        let mut batch = Batch::default();
        for _ in 0..3 {
            batch.push(
                "test",
                NLM_F_ACK,
                RouteNetlinkMessage::GetLink(LinkMessage::default()),
            );
        }
        assert_eq!(batch.number(u32::MAX), 2);
        let numbers: Vec<u32> = batch
            .requests
            .iter()
            .map(|r| NetlinkBuffer::new(&batch.bytes[r.offset..]).sequence_number())
            .collect();
        assert_eq!(numbers, [u32::MAX, 0, 1]);
    }
}
