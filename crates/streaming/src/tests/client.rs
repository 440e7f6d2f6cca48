//! Clients that speak each protocol, well or badly.

use super::soon;
use crate::spdy::frame::{data_header, ping};
use crate::spdy::headers::tests::HeaderWriter;
use crate::websocket::frame::tests::masked;
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// What an upgrade was answered with, and what follows.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) wire: Box<dyn Wire>,
}

/// The host and the path of a URL.
pub(super) fn parts(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").unwrap().1;
    rest.split_at(rest.find('/').unwrap())
}

pub(super) async fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let (host, _) = parts(url);
    let stream = TcpStream::connect(host).await.unwrap();
    stream.set_nodelay(true).unwrap();
    ask_over(Box::new(stream), method, url, headers).await
}

pub(super) async fn ask_over(
    mut wire: Box<dyn Wire>,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let (host, path) = parts(url);
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(wire.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, wire }
}

/// What came on a stream or channel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    pub(super) ended: bool,
    pub(super) reset: bool,
}

impl Got {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Data(u32, Vec<u8>, bool),
    Reply(u32),
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32),
}

/// A client over SPDY.
pub(super) struct Spdy {
    pub(super) wire: Box<dyn Wire>,
    pub(super) headers: HeaderWriter,
    next: u32,
}

impl Spdy {
    pub(super) async fn open(url: &str, version: &str) -> Self {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", version),
        ];
        let answer = ask("POST", url, &headers).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        let given = format!("x-stream-protocol-version: {version}");
        assert!(
            answer.head.to_lowercase().contains(&given),
            "{}",
            answer.head
        );
        Self::over(answer.wire)
    }

    pub(super) fn over(wire: Box<dyn Wire>) -> Self {
        Self {
            wire,
            headers: HeaderWriter::new(),
            next: 1,
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).await.unwrap();
    }

    /// Opens a stream, without waiting for the reply.
    pub(super) async fn stream(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let block = self.headers.write(headers);
        self.write(&syn_stream(id, 0, &block)).await;
        id
    }

    pub(super) async fn role(&mut self, role: &str) -> u32 {
        self.stream(&[("streamtype", role)]).await
    }

    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.write(&data_header(stream, bytes.len(), end)).await;
        self.write(bytes).await;
    }

    pub(super) async fn ping(&mut self, id: u32) {
        self.write(&ping(id)).await;
    }

    /// None at the end of the connection.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        soon(read_frame(&mut self.wire)).await
    }

    /// Reads to the end of the connection: what came on each stream.
    pub(super) async fn rest(&mut self) -> HashMap<u32, Got> {
        let mut streams: HashMap<u32, Got> = HashMap::new();
        while let Some(frame) = self.frame().await {
            match frame {
                Frame::Data(id, bytes, end) => {
                    let got = streams.entry(id).or_default();
                    assert!(!got.ended, "data after the end of stream {id}");
                    got.bytes.extend_from_slice(&bytes);
                    got.ended = end;
                }
                Frame::Reset(id, _) => streams.entry(id).or_default().reset = true,
                _ => {}
            }
        }
        streams
    }
}

pub(super) fn syn_stream(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len() + 10).unwrap().to_be_bytes();
    let mut frame = vec![0x80, 3, 0, 1, flags];
    frame.extend_from_slice(&length[1..]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(block);
    frame
}

async fn read_frame(wire: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 8];
    match wire.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
        result => result.unwrap(),
    };
    let [a, b, c, d, flags, length @ ..] = head;
    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
    let mut payload = vec![0; length as usize];
    wire.read_exact(&mut payload).await.unwrap();
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    let frame = match (a & 0x80, d) {
        (0, _) => Frame::Data(u32::from_be_bytes([a, b, c, d]), payload, flags & 1 != 0),
        (_, 2) => Frame::Reply(word(0)),
        (_, 3) => Frame::Reset(word(0), word(4)),
        (_, 6) => Frame::Ping(word(0)),
        (_, 7) => Frame::GoAway(word(4)),
        (_, other) => panic!("the server sent a frame of kind {other}"),
    };
    Some(frame)
}

/// A client over a WebSocket.
pub(super) struct WebSocket {
    pub(super) wire: Box<dyn Wire>,
}

pub(super) const WEBSOCKET_UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

/// A message of the server: opcode and payload.
pub(super) type Message = (u8, Vec<u8>);

impl WebSocket {
    pub(super) async fn open(url: &str, version: &str) -> Self {
        let mut headers = WEBSOCKET_UPGRADE.to_vec();
        if !version.is_empty() {
            headers.push(("Sec-WebSocket-Protocol", version));
        }
        let answer = ask("GET", url, &headers).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        Self { wire: answer.wire }
    }

    pub(super) async fn write(&mut self, first: u8, payload: &[u8]) {
        self.wire.write_all(&masked(first, payload)).await.unwrap();
    }

    /// Sends a binary message.
    pub(super) async fn send(&mut self, channel: u8, bytes: &[u8]) {
        self.write(0x82, &[&[channel], bytes].concat()).await;
    }

    /// None at the end of the connection.
    pub(super) async fn message(&mut self) -> Option<Message> {
        soon(self.read_message()).await
    }

    async fn read_message(&mut self) -> Option<Message> {
        let first = self.wire.read_u8().await.ok()?;
        assert_eq!(first & 0xf0, 0x80, "the server does not fragment");
        let length = match self.wire.read_u8().await.unwrap() {
            126 => usize::from(self.wire.read_u16().await.unwrap()),
            127 => usize::try_from(self.wire.read_u64().await.unwrap()).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.wire.read_exact(&mut payload).await.unwrap();
        Some((first & 0xf, payload))
    }

    /// Reads to the closing of the connection: what came on each channel, and the code of the closing.
    pub(super) async fn rest(&mut self) -> (HashMap<u8, Vec<u8>>, u16) {
        let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
        loop {
            match self.message().await.expect("the server says farewell") {
                (1 | 2, payload) => {
                    let (channel, bytes) = payload.split_first().unwrap();
                    channels
                        .entry(*channel)
                        .or_default()
                        .extend_from_slice(bytes);
                }
                (8, payload) => {
                    return (channels, u16::from_be_bytes(payload.try_into().unwrap()));
                }
                _ => {}
            }
        }
    }
}
