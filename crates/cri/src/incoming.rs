//! An archive that a client sends in chunks, as a file that a thread reads.

use crisp_cri_api::node::v1::ImportChunk;
use std::io::{self, Cursor, Read};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tonic::{Status, Streaming};
use tracing::Instrument;

/// Chunks that wait to be read; the client waits behind them.
const QUEUE: usize = 4;

/// The archive, from front to back. An error of the stream is one of the file, so that a client that
/// goes away is not mistaken for the archive's end.
#[derive(Debug)]
pub(crate) struct Incoming {
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: Cursor<Vec<u8>>,
}

impl Incoming {
    /// The archive in a client's stream.
    pub(crate) fn new(stream: Streaming<ImportChunk>) -> Self {
        let (sender, chunks) = mpsc::channel(QUEUE);
        tokio::spawn(forward(stream, sender).in_current_span());
        Self {
            chunks,
            current: Cursor::default(),
        }
    }
}

/// Ends with the stream, or when nobody reads any more.
async fn forward(mut stream: Streaming<ImportChunk>, sender: Sender<io::Result<Vec<u8>>>) {
    while let Some(chunk) = stream.message().await.transpose() {
        let chunk = chunk.map(|chunk| chunk.data).map_err(broken);
        let broken = chunk.is_err();
        if sender.send(chunk).await.is_err() || broken {
            return;
        }
    }
}

fn broken(status: Status) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, status)
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.current.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = Cursor::new(chunk?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(chunks: Vec<io::Result<Vec<u8>>>) -> Incoming {
        let (sender, receiver) = mpsc::channel(chunks.len());
        for chunk in chunks {
            sender.try_send(chunk).unwrap();
        }
        Incoming {
            chunks: receiver,
            current: Cursor::default(),
        }
    }

    #[test]
    fn chunks_of_any_size_are_one_file() {
        let chunks = [&b"abc"[..], b"", b"defgh", b"i"].map(|chunk| Ok(chunk.to_vec()));
        let mut archive = incoming(chunks.into());
        let mut start = [0; 2];
        archive.read_exact(&mut start).unwrap();
        let mut rest = String::new();
        archive.read_to_string(&mut rest).unwrap();
        assert_eq!((&start, rest.as_str()), (b"ab", "cdefghi"));
    }

    #[test]
    fn a_broken_stream_is_not_the_end_of_the_file() {
        let gone = broken(Status::cancelled("the client has gone"));
        let mut archive = incoming(vec![Ok(b"abc".to_vec()), Err(gone)]);
        let error = archive.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
