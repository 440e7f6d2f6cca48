//! A connection to a client: TCP, with TLS or without; and its two directions.

use crate::activity::Activity;
use crate::buffer::ReadSize;
use bytes::{BufMut, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection as it was accepted.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is written to a client.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type Reader = Box<dyn AsyncRead + Send + Unpin>;

impl Transport {
    /// Splits a connection, the first bytes of which have been read already.
    pub(crate) fn split(self, first: &[u8], activity: Arc<Activity>) -> (Wire, Writer) {
        let (reader, writer): (Reader, Writer) = match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Self::Tls(stream) => {
                let (reader, writer) = tokio::io::split(*stream);
                (Box::new(reader), Box::new(writer))
            }
        };
        let wire = Wire {
            reader,
            buffer: BytesMut::from(first),
            size: ReadSize::default(),
            activity,
        };
        (wire, writer)
    }
}

/// What comes from a client.
pub(crate) struct Wire {
    reader: Reader,
    /// Bytes that have been read and are not understood yet.
    pub(crate) buffer: BytesMut,
    size: ReadSize,
    activity: Arc<Activity>,
}

impl Wire {
    /// Reads more into the buffer. False at the end.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        let wanted = self.size.bytes();
        if self.buffer.is_empty() && self.buffer.capacity() > wanted {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(wanted);
        let mut space = (&mut self.buffer).limit(wanted);
        let count = self.reader.read_buf(&mut space).await?;
        self.size.learn(count);
        self.activity.touch();
        Ok(count > 0)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
