//! Packets on the wire: one protobuf message per SEQPACKET message, with descriptors beside it.

use crate::VERSION;
use crate::message::{Event, Packet, Reply, Request, event, packet, reply, request};
use crisp_sys::socket::{self, Wait};
use prost::Message;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The longest packet. Below the default send buffer of a socket (`net.core.wmem_default`, 208 KiB),
/// which bounds a message on SEQPACKET.
pub const MAX_PACKET_BYTES: usize = 128 * 1024;

/// Why a packet did not get through.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// Nothing to receive, or no room to send: wait for the socket and try again.
    #[error("the socket is not ready")]
    WouldBlock,
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// The packet to be sent is longer than [`MAX_PACKET_BYTES`]; nothing was sent.
    #[error("a packet of {bytes} bytes is longer than {MAX_PACKET_BYTES}")]
    TooLong {
        /// Length of the encoded packet.
        bytes: usize,
    },
    /// What came is longer than a packet or carries too many descriptors: close the connection.
    #[error(
        "a packet came that is longer than {MAX_PACKET_BYTES} bytes or has too many descriptors"
    )]
    Truncated,
    /// What came is no packet: close the connection.
    #[error("what came is not a packet of this protocol")]
    Malformed(#[source] Option<prost::DecodeError>),
    /// The socket failed: close the connection.
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// For the closures that readiness wrappers take, which look for [`io::ErrorKind::WouldBlock`].
impl From<PacketError> for io::Error {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            PacketError::Closed => io::Error::new(io::ErrorKind::UnexpectedEof, error),
            PacketError::TooLong { .. } => io::Error::new(io::ErrorKind::InvalidInput, error),
            PacketError::Truncated | PacketError::Malformed(_) => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
            PacketError::Io(cause) => cause,
        }
    }
}

impl From<io::Error> for PacketError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock => Self::WouldBlock,
            Kind::BrokenPipe | Kind::ConnectionReset | Kind::NotConnected => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// A packet that asks.
#[must_use]
pub fn request(id: u64, body: request::Body) -> Packet {
    let request = Request {
        id,
        body: Some(body),
    };
    Packet {
        body: Some(packet::Body::Request(request)),
    }
}

/// A packet that answers the request with the same id.
#[must_use]
pub fn reply(id: u64, body: reply::Body) -> Packet {
    let reply = Reply {
        id,
        body: Some(body),
    };
    Packet {
        body: Some(packet::Body::Reply(reply)),
    }
}

/// A packet that tells what nobody asked.
#[must_use]
pub fn event(body: event::Body) -> Packet {
    let event = Event { body: Some(body) };
    Packet {
        body: Some(packet::Body::Event(event)),
    }
}

/// The version that both sides know, when the peer's highest is `theirs`; none when there is none.
#[must_use]
pub fn negotiate(theirs: u32) -> Option<u32> {
    (theirs > 0).then(|| theirs.min(VERSION))
}

/// The bytes of a packet.
///
/// # Errors
/// [`PacketError::TooLong`].
pub fn encode(packet: &Packet) -> Result<Vec<u8>, PacketError> {
    let bytes = packet.encoded_len();
    if bytes > MAX_PACKET_BYTES {
        return Err(PacketError::TooLong { bytes });
    }
    Ok(packet.encode_to_vec())
}

/// The packet of some bytes. Fields that this build does not know are skipped, so that a newer peer
/// may send them.
///
/// # Errors
/// [`PacketError::Malformed`].
pub fn decode(bytes: &[u8]) -> Result<Packet, PacketError> {
    let packet = Packet::decode(bytes).map_err(|error| PacketError::Malformed(Some(error)))?;
    match packet.body {
        Some(_) => Ok(packet),
        None => Err(PacketError::Malformed(None)),
    }
}

/// Sends a packet, waiting for room in the socket.
///
/// # Errors
/// All but [`PacketError::WouldBlock`]; nothing was sent then.
pub fn send(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    fds: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    send_with(socket, packet, fds, Wait::Block)
}

/// Sends a packet if the socket has room for it.
///
/// # Errors
/// [`PacketError::WouldBlock`] when it has none; nothing was sent then.
pub fn try_send(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    fds: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    send_with(socket, packet, fds, Wait::Never)
}

/// Receives a packet, waiting for one. The descriptors are closed on exec.
///
/// # Errors
/// [`PacketError::Closed`] at the end of the connection.
pub fn recv(socket: BorrowedFd<'_>) -> Result<(Packet, Vec<OwnedFd>), PacketError> {
    recv_with(socket, Wait::Block)
}

/// Receives a packet if there is one. The descriptors are closed on exec.
///
/// # Errors
/// [`PacketError::WouldBlock`] when there is none, [`PacketError::Closed`] at the end of the
/// connection.
pub fn try_recv(socket: BorrowedFd<'_>) -> Result<(Packet, Vec<OwnedFd>), PacketError> {
    recv_with(socket, Wait::Never)
}

fn send_with(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<(), PacketError> {
    let bytes = encode(packet)?;
    socket::send(socket, &bytes, fds, wait)?;
    Ok(())
}

fn recv_with(socket: BorrowedFd<'_>, wait: Wait) -> Result<(Packet, Vec<OwnedFd>), PacketError> {
    // One that fits any packet would be a mapping of its own, for each.
    let length = socket::next_length(socket, wait)?;
    let mut buffer = vec![0; length.clamp(1, MAX_PACKET_BYTES)];
    let received = socket::receive(socket, &mut buffer, wait)?;
    if received.truncated {
        return Err(PacketError::Truncated);
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    Ok((decode(&buffer[..received.bytes])?, received.fds))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
