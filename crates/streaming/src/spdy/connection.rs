//! A SPDY connection: its streams, and what a client does with them.

use super::ServerSide;
use super::frame::{self, Decoder, Event, ResetStatus, StreamId};
use super::headers::{HeaderReader, Headers};
use crate::failure::Failure;
use crate::inbox::{Inbox, Room, Sender, inbox};
use crate::outbox::Outbox;
use crate::outlet::Outlet;
use crate::websocket::tunnel::Source;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Streams that a client may have open at once: two for each connection that is forwarded.
const STREAMS_MAX: usize = 1024;
/// Streams that have been accepted and not been looked at.
pub(crate) const BACKLOG: usize = 8;

/// Whether a stream with these headers may be opened.
pub(crate) type Admit = fn(&Headers) -> bool;

/// A stream that a client has opened.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) headers: Headers,
    pub(crate) inbox: Inbox,
    pub(crate) outlet: Outlet,
}

struct Entry {
    sender: Sender,
    client_finished: bool,
    server: Arc<ServerSide>,
}

impl Entry {
    fn is_over(&self) -> bool {
        self.server.is_over(self.client_finished)
    }
}

/// The reading half of a connection.
pub(crate) struct Connection {
    source: Source,
    outbox: Arc<Outbox>,
    admit: Admit,
    opened: mpsc::Sender<Stream>,
    /// None once no more streams are wanted: then headers need not be understood any more.
    headers: Option<HeaderReader>,
    streams: HashMap<StreamId, Entry>,
    room: Arc<Room>,
    /// The highest id so far.
    last: StreamId,
    replied: bool,
}

impl Connection {
    /// Streams that pass `admit` are accepted and handed to `opened` until nobody receives from it.
    pub(crate) fn new(
        source: Source,
        outbox: Arc<Outbox>,
        admit: Admit,
        opened: mpsc::Sender<Stream>,
    ) -> Self {
        Self {
            source,
            outbox,
            admit,
            opened,
            headers: Some(HeaderReader::new()),
            streams: HashMap::new(),
            room: Arc::default(),
            last: 0,
            replied: false,
        }
    }

    /// Reads until the client leaves.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let mut decoder = Decoder::default();
        loop {
            while let Some(event) = decoder.next(self.source.buffer())? {
                if matches!(event, Event::GoAway) {
                    return Ok(());
                }
                self.handle(event).await?;
            }
            if !self.source.fill().await? {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), Failure> {
        if self.opened.is_closed() {
            self.headers = None;
        }
        match event {
            Event::Data { stream, bytes, end } => self.data(stream, bytes, end).await,
            Event::SynStream { stream, end, block } => return self.open(stream, end, &block).await,
            Event::Headers { stream, end, block } => {
                self.read_headers(&block)?;
                self.data(stream, Bytes::new(), end).await;
            }
            Event::Reset { stream } => {
                if let Some(entry) = self.streams.remove(&stream) {
                    entry.server.give_up();
                    entry.sender.reset();
                }
            }
            // Even ones would be answers to ours, of which there are none.
            Event::Ping { id } if id % 2 == 1 => self.outbox.queue(&frame::ping(id))?,
            Event::Ping { .. } | Event::GoAway => {}
        }
        Ok(())
    }

    /// Data for a stream that is not there any more may have been under way when it ended.
    async fn data(&mut self, stream: StreamId, bytes: Bytes, end: bool) {
        let Some(entry) = self.streams.get_mut(&stream) else {
            return;
        };
        entry.sender.push(bytes).await;
        if !end {
            return;
        }
        entry.client_finished = true;
        entry.sender.end();
        if entry.is_over() {
            self.streams.remove(&stream);
        }
    }

    async fn open(&mut self, id: StreamId, end: bool, block: &[u8]) -> Result<(), Failure> {
        let headers = self.read_headers(block)?;
        if id.is_multiple_of(2) || id <= self.last {
            return self.refuse(id, ResetStatus::ProtocolError);
        }
        self.last = id;
        self.streams.retain(|_, entry| !entry.is_over());
        let Some(headers) = headers.filter(self.admit) else {
            return self.refuse(id, ResetStatus::RefusedStream);
        };
        if self.streams.len() >= STREAMS_MAX {
            return self.refuse(id, ResetStatus::RefusedStream);
        }
        self.outbox.queue(&frame::reply(id, !self.replied))?;
        self.replied = true;
        let stream = self.accept(id, headers);
        if self.opened.send(stream).await.is_err() {
            // Its outlet is gone too, and so nobody else will say it.
            self.streams.remove(&id);
            return self.refuse(id, ResetStatus::RefusedStream);
        }
        self.data(id, Bytes::new(), end).await;
        Ok(())
    }

    fn accept(&mut self, id: StreamId, headers: Headers) -> Stream {
        let (sender, inbox) = inbox(&self.room);
        let side = Arc::<ServerSide>::default();
        let entry = Entry {
            sender,
            client_finished: false,
            server: side.clone(),
        };
        self.streams.insert(id, entry);
        Stream {
            id,
            headers,
            inbox,
            outlet: Outlet::spdy(self.outbox.clone(), id, side),
        }
    }

    fn refuse(&self, id: StreamId, status: ResetStatus) -> Result<(), Failure> {
        Ok(self.outbox.queue(&frame::reset(id, status))?)
    }

    /// None when no more streams are wanted.
    fn read_headers(&mut self, block: &[u8]) -> Result<Option<Headers>, Failure> {
        self.headers
            .as_mut()
            .map(|reader| reader.read(block))
            .transpose()
    }
}
