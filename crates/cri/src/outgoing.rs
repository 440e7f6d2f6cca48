//! A file that a thread writes, as chunks that are sent to a client.

use crisp_cri_api::node::v1::ExportChunk;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::mpsc::{self, OwnedPermit, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What is sent at once, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that wait for the client; whoever writes waits behind them.
const QUEUE: usize = 4;

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(120);

type Chunk = Result<ExportChunk, Status>;

/// A file's chunks; an error is the last.
pub(crate) type Chunks = ReceiverStream<Chunk>;

/// A writer, what the client gets of it, and the client as the server sees it. What waits to fill a chunk is
/// sent by `flush`. Blocks, and so is no writer for an async task, but for a thread of this runtime.
pub(crate) fn outgoing() -> (Outgoing, Client, Chunks) {
    let (sender, receiver) = mpsc::channel(QUEUE + 1);
    let place = sender.clone().try_reserve_owned();
    let client = Client {
        sender: sender.clone(),
        place: place.expect("the channel is empty"),
    };
    let outgoing = Outgoing {
        waiting: Vec::new(),
        sender,
        runtime: Handle::current(),
        patience: PATIENCE,
    };
    (outgoing, client, ReceiverStream::new(receiver))
}

/// Whom the file is sent to.
#[derive(Debug)]
pub(crate) struct Client {
    sender: Sender<Chunk>,
    /// Kept free for an error: without one what has been sent would pass for the whole file.
    place: OwnedPermit<Chunk>,
}

impl Client {
    /// Comes when the client has gone.
    pub(crate) async fn gone(&self) {
        self.sender.closed().await;
    }

    /// Whether the client is there, to be asked by whoever makes the file.
    pub(crate) fn presence(&self) -> impl Fn() -> bool + Send + use<> {
        let sender = self.sender.clone();
        move || !sender.is_closed()
    }

    /// Says that there will be no more, and why.
    pub(crate) fn fail(self, status: Status) {
        self.place.send(Err(status));
    }
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    waiting: Vec<u8>,
    sender: Sender<Chunk>,
    runtime: Handle,
    patience: Duration,
}

impl Outgoing {
    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.waiting);
        if data.is_empty() {
            return Ok(());
        }
        let sent = self
            .sender
            .send_timeout(Ok(ExportChunk { data }), self.patience);
        self.runtime.block_on(sent).map_err(|error| match error {
            SendTimeoutError::Closed(_) => {
                io::Error::new(ErrorKind::BrokenPipe, "the client has gone")
            }
            SendTimeoutError::Timeout(_) => {
                io::Error::new(ErrorKind::TimedOut, "the client takes no more")
            }
        })
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.waiting.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.waiting.extend_from_slice(taken);
        if self.waiting.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::spawn_blocking;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn a_file_arrives_whole_in_pieces() {
        let (mut file, client, chunks) = outgoing();
        let bytes: Vec<u8> = (0..CHUNK_BYTES + 3).map(|n| n.to_le_bytes()[0]).collect();
        let sent = bytes.clone();
        drop(client);
        let writer = spawn_blocking(move || {
            file.write_all(&sent)?;
            file.flush()
        });
        let chunks: Vec<_> = chunks.map(|chunk| chunk.unwrap().data).collect().await;
        writer.await.unwrap().unwrap();
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths, [CHUNK_BYTES, 3]);
        assert!(chunks.concat() == bytes);
    }

    #[tokio::test]
    async fn nothing_is_written_for_a_client_that_has_gone() {
        let (mut file, client, chunks) = outgoing();
        let is_there = client.presence();
        assert!(is_there());
        drop(chunks);
        client.gone().await;
        assert!(!is_there());
        let written = spawn_blocking(move || file.write_all(b"x").and_then(|()| file.flush()));
        let error = written.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_and_finds_the_error_last() {
        let (mut file, client, chunks) = outgoing();
        file.patience = Duration::from_millis(10);
        let written = spawn_blocking(move || file.write_all(&vec![0; (QUEUE + 1) * CHUNK_BYTES]));
        let error = written.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        client.fail(Status::aborted("too slow"));
        let chunks: Vec<_> = chunks.collect().await;
        let (last, whole) = chunks.split_last().unwrap();
        assert!(last.is_err());
        assert!(whole.len() == QUEUE && whole.iter().all(Result::is_ok));
    }
}
