//! A WebSocket with channels: what a client sends goes to where its channel leads.

use super::channel::{ChannelDecoder, Message};
use super::frame::{self, Decoder, Event};
use crate::failure::Failure;
use crate::inbox::{Inbox, Room, Sender, inbox};
use crate::outbox::Outbox;
use crate::transport::Wire;
use std::collections::HashMap;
use std::sync::Arc;

/// The channels that somebody listens to. What comes on others is thrown away.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    senders: HashMap<u8, Sender>,
    room: Arc<Room>,
}

impl Routes {
    /// Listens to a channel.
    pub(crate) fn open(&mut self, channel: u8) -> Inbox {
        let (sender, inbox) = inbox(&self.room);
        self.senders.insert(channel, sender);
        inbox
    }

    async fn deliver(&self, message: Option<Message>) {
        match message {
            Some(Message::Data { channel, bytes }) => {
                if let Some(sender) = self.senders.get(&channel) {
                    sender.push(bytes).await;
                }
            }
            Some(Message::HalfClose { channel }) => {
                if let Some(sender) = self.senders.get(&channel) {
                    sender.end();
                }
            }
            None => {}
        }
    }
}

/// The reading half of a connection.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) channels: ChannelDecoder,
    pub(crate) routes: Routes,
}

impl Connection {
    /// Reads until the client leaves.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let mut decoder = Decoder::default();
        loop {
            while let Some(event) = decoder.next(&mut self.wire.buffer)? {
                match event {
                    Event::Data {
                        bytes,
                        starts,
                        ends,
                    } => {
                        let message = self.channels.part(bytes, starts, ends)?;
                        self.routes.deliver(message).await;
                    }
                    Event::Ping(payload) => {
                        self.outbox.queue_bare(frame::pong(&payload).as_bytes())?;
                    }
                    Event::Close => return Ok(()),
                }
            }
            if !self.wire.fill().await? {
                return Ok(());
            }
        }
    }
}
