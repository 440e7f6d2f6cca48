//! What stands before a registry: it passes on what clients ask, and can be told to change the answers.

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The longest head of a request.
const HEAD_MAX_BYTES: usize = 16 << 10;

/// Passes on requests of HTTP/1.1 for as long as the runtime lives that it was started in.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    lie: watch::Sender<Option<Lie>>,
}

/// An answer of the registry, on its way to the client.
#[derive(Debug)]
pub struct Answer {
    head: String,
    body: Vec<u8>,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    /// Nothing more is sent, and the connection stays.
    Silence,
}

type Change = Arc<Mutex<dyn FnMut(&mut Answer) + Send>>;

/// Changes the answers to requests whose paths have a word in them.
#[derive(Clone)]
struct Lie {
    path: &'static str,
    change: Change,
}

impl std::fmt::Debug for Lie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a lie about {}", self.path)
    }
}

impl Front {
    /// Of a registry; it tells the truth.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start(registry: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (lie, told) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Either side may go when it likes.
                tokio::spawn(pass_on(client, registry, told.clone()));
            }
        });
        Ok(Self { address, lie })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has answers changed from now on, of requests with a word in their paths.
    pub fn lie(&self, path: &'static str, change: impl FnMut(&mut Answer) + Send + 'static) {
        let change = Arc::new(Mutex::new(change));
        self.lie.send_replace(Some(Lie { path, change }));
    }

    /// Has nothing changed any more; whom was nothing more sent is let go.
    pub fn tell_the_truth(&self) {
        self.lie.send_replace(None);
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let end = end_of_head(bytes).context("no head")?;
        Ok(Self {
            head: String::from_utf8(bytes[..end].to_vec())?,
            body: bytes[end..].to_vec(),
            ending: Ending::Close,
        })
    }

    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    /// Says how long the body is as it is now.
    pub fn fit_length(&mut self) {
        let length = format!("Content-Length: {}", self.body.len());
        self.set_header("content-length", Some(&length));
    }

    /// Puts a line in the place of a header, or nothing.
    pub fn set_header(&mut self, name: &str, line: Option<&str>) {
        let is_other = |header: &&str| {
            let other = header.split(':').next().unwrap_or_default();
            !other.eq_ignore_ascii_case(name)
        };
        let lines = self.head.trim_end().split("\r\n").filter(is_other);
        let lines: Vec<&str> = lines.chain(line).collect();
        self.head = format!("{}\r\n\r\n", lines.join("\r\n"));
    }

    /// Puts one text in the place of another in the body.
    pub fn replace(&mut self, from: &str, to: &str) {
        let text = String::from_utf8_lossy(&self.body).replace(from, to);
        self.body = text.into_bytes();
        self.fit_length();
    }

    /// Sends no more than so many bytes of the body, whatever the head says, and closes the connection.
    pub fn break_off(&mut self, after_bytes: usize) {
        self.body.truncate(after_bytes);
    }

    /// The same, but the connection stays.
    pub fn fall_silent(&mut self, after_bytes: usize) {
        self.break_off(after_bytes);
        self.ending = Ending::Silence;
    }
}

async fn pass_on(
    mut client: TcpStream,
    registry: SocketAddr,
    mut told: watch::Receiver<Option<Lie>>,
) -> Result<()> {
    let request = read_head(&mut client).await?;
    let mut server = TcpStream::connect(registry).await?;
    // The answer then ends with the connection.
    let (first, rest) = request.split_once("\r\n").context("no request")?;
    let request = format!("{first}\r\nConnection: close\r\n{rest}");
    server.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes).await?;
    let mut answer = Answer::parse(&bytes)?;
    let lie = told.borrow_and_update().clone();
    if let Some(lie) = lie.filter(|lie| first.contains(lie.path)) {
        let mut change = lie.change.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut answer);
    }
    client.write_all(answer.head.as_bytes()).await?;
    client.write_all(&answer.body).await?;
    if answer.ending == Ending::Silence {
        told.changed().await?;
    }
    Ok(client.shutdown().await?)
}

async fn read_head(client: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while end_of_head(&head).is_none() && head.len() < HEAD_MAX_BYTES {
        let read = client.read_buf(&mut head).await?;
        anyhow::ensure!(read > 0, "the client has gone");
    }
    Ok(String::from_utf8(head)?)
}

/// Where the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}
