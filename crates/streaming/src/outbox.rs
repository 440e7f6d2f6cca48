//! What is sent to a client: data by whoever has it, one at a time; small control frames from a queue.
//!
//! Who reads the connection must never wait for it to take something, or a client that does not read
//! could not be heard either. So answers are queued, and written ahead of the data that comes next.

use crate::activity::Activity;
use crate::buffer::Chunk;
use crate::transport::Writer;
use crate::websocket::frame::{self, Opcode};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

/// Control frames that may wait for a client that does not read. One that asks for more is cut off.
const QUEUE_MAX_BYTES: usize = 64 << 10;

/// What the frames given to an outbox are sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    None,
    /// Each is a binary message of a WebSocket.
    WebSocket,
}

/// The way to a client.
pub(crate) struct Outbox {
    envelope: Envelope,
    sink: tokio::sync::Mutex<Sink>,
    queued: Mutex<Vec<u8>>,
    wake: Notify,
    activity: Arc<Activity>,
}

struct Sink {
    writer: Writer,
    /// The rest of a frame whose sender was dropped: what follows would not be understood without it.
    rest: Vec<u8>,
}

impl Sink {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_rest().await?;
        let mut frame = Frame {
            sink: self,
            bytes,
            sent: 0,
        };
        while frame.sent < bytes.len() {
            let count = frame.sink.writer.write(&bytes[frame.sent..]).await?;
            frame.sent += nonzero(count)?;
        }
        frame.sink.writer.flush().await
    }

    async fn write_rest(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            let count = self.writer.write(&self.rest).await?;
            self.rest.drain(..nonzero(count)?);
        }
        self.rest = Vec::new();
        Ok(())
    }
}

fn nonzero(count: usize) -> io::Result<usize> {
    match count {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

/// A frame that is being written. When that is given up midway, the rest is kept.
struct Frame<'a> {
    sink: &'a mut Sink,
    bytes: &'a [u8],
    sent: usize,
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.sink.rest.extend_from_slice(&self.bytes[self.sent..]);
        }
    }
}

impl Outbox {
    pub(crate) fn new(writer: Writer, envelope: Envelope, activity: Arc<Activity>) -> Self {
        Self {
            envelope,
            sink: tokio::sync::Mutex::new(Sink {
                writer,
                rest: Vec::new(),
            }),
            queued: Mutex::default(),
            wake: Notify::new(),
            activity,
        }
    }

    /// Sends a frame, when the client takes it. When the future is dropped, the frame is sent wholly
    /// or not at all.
    pub(crate) async fn send(&self, frame: &mut Chunk) -> io::Result<()> {
        if self.envelope == Envelope::WebSocket {
            frame::enclose(frame, Opcode::Binary);
        }
        let mut sink = self.sink.lock().await;
        let finishing = Finishing(self);
        self.write_queued(&mut sink).await?;
        sink.write(frame.as_bytes()).await?;
        std::mem::forget(finishing);
        self.activity.touch();
        Ok(())
    }

    /// Sends a small frame soon, before any data that is sent later.
    pub(crate) fn queue(&self, frame: &[u8]) -> io::Result<()> {
        match self.envelope {
            Envelope::None => self.queue_bare(frame),
            Envelope::WebSocket => {
                let mut chunk = Chunk::copy_of(frame);
                frame::enclose(&mut chunk, Opcode::Binary);
                self.queue_bare(chunk.as_bytes())
            }
        }
    }

    /// The same without an envelope.
    pub(crate) fn queue_bare(&self, frame: &[u8]) -> io::Result<()> {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if queued.len() + frame.len() > QUEUE_MAX_BYTES {
            return Err(io::Error::other("the client does not read its answers"));
        }
        queued.extend_from_slice(frame);
        drop(queued);
        self.wake.notify_one();
        Ok(())
    }

    /// Sends what is queued, until the client takes nothing any more.
    pub(crate) async fn serve_queue(&self) -> io::Error {
        loop {
            self.wake.notified().await;
            if let Err(error) = self.flush().await {
                return error;
            }
        }
    }

    async fn flush(&self) -> io::Result<()> {
        let mut sink = self.sink.lock().await;
        self.write_queued(&mut sink).await
    }

    async fn write_queued(&self, sink: &mut Sink) -> io::Result<()> {
        let queued = self
            .queued
            .lock()
            .map(|mut queued| std::mem::take(&mut *queued));
        let queued = queued.unwrap_or_else(|poisoned| std::mem::take(&mut *poisoned.into_inner()));
        if queued.is_empty() {
            return sink.write_rest().await;
        }
        sink.write(&queued).await?;
        self.activity.touch();
        Ok(())
    }

    /// Sends what is queued and closes this direction.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let mut sink = self.sink.lock().await;
        self.write_queued(&mut sink).await?;
        sink.writer.shutdown().await
    }
}

/// Has the queue's server finish what a sender that is dropped has begun.
struct Finishing<'a>(&'a Outbox);

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        self.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_frame_whose_sender_is_dropped_midway_is_finished() {
        let (client, server) = tokio::io::duplex(10);
        let outbox = Outbox::new(Box::new(server), Envelope::None, Arc::new(Activity::new()));
        let cut = tokio::select! {
            biased;
            _ = async { outbox.send(&mut Chunk::copy_of(&[b'a'; 30])).await } => "sent",
            () = std::future::ready(()) => "cut",
        };
        assert_eq!(cut, "cut");
        outbox.queue(b"control").unwrap();
        let mut client = client;
        let mut received = vec![0; 44];
        tokio::select! {
            _ = outbox.serve_queue() => {}
            () = async { outbox.send(&mut Chunk::copy_of(b"data...")).await.unwrap(); std::future::pending().await } => {}
            read = client.read_exact(&mut received) => drop(read.unwrap()),
        }
        assert_eq!(received, [&[b'a'; 30][..], b"control", b"data..."].concat());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answers_is_given_up() {
        let (_client, server) = tokio::io::duplex(10);
        let outbox = Outbox::new(Box::new(server), Envelope::None, Arc::new(Activity::new()));
        for _ in 0..QUEUE_MAX_BYTES / 16 {
            outbox.queue(&[0; 16]).unwrap();
        }
        outbox.queue(&[0; 16]).unwrap_err();
    }
}
