//! A file that a thread writes, as chunks that are sent to a client.

use crisp_cri_api::node::v1::ExportChunk;
use std::io::{self, Write};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What is sent at once, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that wait for the client; whoever writes waits behind them.
const QUEUE: usize = 4;

/// A file's chunks; an error is the last.
pub(crate) type Chunks = ReceiverStream<Result<ExportChunk, Status>>;

/// A writer, and what the client gets of it. What waits to fill a chunk is sent by `flush`. Blocks, and so
/// is no writer for an async task.
pub(crate) fn outgoing() -> (Outgoing, Chunks) {
    let (sender, receiver): (_, Receiver<_>) = mpsc::channel(QUEUE);
    let outgoing = Outgoing {
        waiting: Vec::new(),
        sender,
    };
    (outgoing, ReceiverStream::new(receiver))
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    waiting: Vec<u8>,
    sender: Sender<Result<ExportChunk, Status>>,
}

impl Outgoing {
    /// Where to tell the client that there will be no more, and why.
    pub(crate) fn errors(&self) -> Sender<Result<ExportChunk, Status>> {
        self.sender.clone()
    }

    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.waiting);
        if data.is_empty() {
            return Ok(());
        }
        let sent = self.sender.blocking_send(Ok(ExportChunk { data }));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
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
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn a_file_arrives_whole_in_pieces() {
        let (mut file, chunks) = outgoing();
        let bytes: Vec<u8> = (0..CHUNK_BYTES + 3).map(|n| n.to_le_bytes()[0]).collect();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || {
            file.write_all(&sent)?;
            file.flush()
        });
        let chunks: Vec<_> = chunks.map(|chunk| chunk.unwrap().data).collect().await;
        writer.join().unwrap().unwrap();
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths, [CHUNK_BYTES, 3]);
        assert!(chunks.concat() == bytes);
    }

    #[test]
    fn nothing_is_written_for_a_client_that_has_gone() {
        let (mut file, chunks) = outgoing();
        drop(chunks);
        file.write_all(b"x").unwrap();
        let error = file.flush().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
