//! Where a SPDY connection reads from: a connection, or the messages of a WebSocket that carries it.

use super::frame::{self, Decoder, Event};
use crate::failure::Failure;
use crate::outbox::Outbox;
use crate::transport::Wire;
use bytes::BytesMut;
use std::sync::Arc;

/// A source of bytes.
pub(crate) enum Source {
    Plain(Wire),
    Tunnel(Tunnel),
}

/// A WebSocket whose messages, put together, are the bytes of a connection.
pub(crate) struct Tunnel {
    wire: Wire,
    outbox: Arc<Outbox>,
    decoder: Decoder,
    /// The payload of messages that has been read and is not understood yet.
    buffer: BytesMut,
}

impl Source {
    pub(crate) fn tunnel(wire: Wire, outbox: Arc<Outbox>) -> Self {
        Self::Tunnel(Tunnel {
            wire,
            outbox,
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
        })
    }

    /// What has been read and is not understood yet.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        match self {
            Self::Plain(wire) => &mut wire.buffer,
            Self::Tunnel(tunnel) => &mut tunnel.buffer,
        }
    }

    /// Reads more into the buffer. False at the end.
    pub(crate) async fn fill(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Plain(wire) => Ok(wire.fill().await?),
            Self::Tunnel(tunnel) => tunnel.fill().await,
        }
    }
}

impl Tunnel {
    async fn fill(&mut self) -> Result<bool, Failure> {
        loop {
            match self.decoder.next(&mut self.wire.buffer)? {
                Some(Event::Data { bytes, .. }) if bytes.is_empty() => {}
                Some(Event::Data { bytes, .. }) => {
                    self.buffer.unsplit(bytes);
                    return Ok(true);
                }
                Some(Event::Ping(payload)) => {
                    self.outbox.queue_bare(frame::pong(&payload).as_bytes())?;
                }
                Some(Event::Close) => return Ok(false),
                None if !self.wire.fill().await? => return Ok(false),
                None => {}
            }
        }
    }
}
