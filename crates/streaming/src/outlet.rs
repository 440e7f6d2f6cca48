//! The server's side of one stream, whatever carries it.

use crate::buffer::Chunk;
use crate::outbox::Outbox;
use crate::spdy::{self, ServerSide, StreamId};
use crate::websocket::channel::Codec;
use crate::websocket::frame;
use std::io;
use std::sync::Arc;

/// Where bytes for one stream of a client go.
pub(crate) struct Outlet {
    outbox: Arc<Outbox>,
    framing: Framing,
}

enum Framing {
    Spdy {
        stream: StreamId,
        side: Arc<ServerSide>,
    },
    WebSocket {
        channel: u8,
        codec: Codec,
    },
}

impl Outlet {
    /// The end is noted in `side`.
    pub(crate) fn spdy(outbox: Arc<Outbox>, stream: StreamId, side: Arc<ServerSide>) -> Self {
        let framing = Framing::Spdy { stream, side };
        Self { outbox, framing }
    }

    pub(crate) fn websocket(outbox: Arc<Outbox>, channel: u8, codec: Codec) -> Self {
        let framing = Framing::WebSocket { channel, codec };
        Self { outbox, framing }
    }

    /// Sends the bytes of a chunk, when the client takes them. When the future is dropped, they are
    /// sent wholly or not at all.
    pub(crate) async fn send(&self, chunk: &mut Chunk) -> io::Result<()> {
        match &self.framing {
            Framing::Spdy { stream, .. } => {
                let length = chunk.as_bytes().len();
                chunk.prepend(&spdy::frame::data_header(*stream, length, false));
                self.outbox.send(chunk).await
            }
            Framing::WebSocket { channel, codec } => match codec {
                Codec::Binary => {
                    chunk.prepend(&[*channel]);
                    frame::enclose(chunk, frame::Opcode::Binary);
                    self.outbox.send(chunk).await
                }
                Codec::Base64 => {
                    let mut text = codec.encode(*channel, chunk.as_bytes());
                    frame::enclose(&mut text, frame::Opcode::Text);
                    self.outbox.send(&mut text).await
                }
            },
        }
    }

    /// Nothing more follows. A WebSocket has no words for that: its channels end together.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match &self.framing {
            Framing::Spdy { stream, side } if side.finish() => self
                .outbox
                .queue(&spdy::frame::data_header(*stream, 0, true)),
            _ => Ok(()),
        }
    }

    /// The stream is given up, in both directions.
    pub(crate) fn reset(&self) -> io::Result<()> {
        match &self.framing {
            Framing::Spdy { stream, side } => {
                side.give_up();
                let frame = spdy::frame::reset(*stream, spdy::frame::ResetStatus::Cancel);
                self.outbox.queue(&frame)
            }
            Framing::WebSocket { .. } => Ok(()),
        }
    }
}
