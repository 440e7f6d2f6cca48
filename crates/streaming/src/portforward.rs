//! Port-forward: each connection of a client is a pair of streams, one for data and one for an error.
//!
//! Over SPDY a client opens pairs as it needs them, tied together by a request id. Over WebSocket there
//! is one pair of channels for each port, 2n for data and 2n+1 for an error, on each of which the server
//! first says the port in two bytes, the lower one first.

use crate::activity::Activity;
use crate::buffer::{Chunk, ReadSize};
use crate::inbox::{Inbox, Received};
use crate::negotiate::ChannelVersion;
use crate::outbox::Outbox;
use crate::outlet::Outlet;
use crate::request::{Connect, PortForwardRequest};
use crate::spdy::headers::Headers;
use crate::spdy::{Stream, StreamId};
use crate::websocket::Routes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Ports that one WebSocket can forward, so that in `base64.channel.k8s.io` channels have one byte.
pub(crate) const WEBSOCKET_PORTS_MAX: usize = 32;
/// How long dialling may take. The port is on this node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection of which one side has ended may be silent. Clients that are gone look like
/// clients that have only sent all they had, and some servers would keep the other direction for ever.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Data,
    Error,
}

/// What the headers of a stream say.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    port: u16,
    role: Role,
    request: Option<String>,
}

impl Label {
    fn of(headers: &Headers) -> Option<Self> {
        let role = match headers.get("streamtype")? {
            "data" => Role::Data,
            "error" => Role::Error,
            _ => return None,
        };
        let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        let request = headers.get("requestid").filter(|id| !id.is_empty());
        let request = request.map(str::to_owned);
        Some(Self {
            port,
            role,
            request,
        })
    }

    /// Clients that send no request id open the error stream first, and the data stream next to it.
    fn request(&self, stream: StreamId) -> String {
        match (&self.request, self.role) {
            (Some(id), _) => id.clone(),
            (None, Role::Error) => stream.to_string(),
            (None, Role::Data) => stream.saturating_sub(2).to_string(),
        }
    }
}

/// Whether a client may open such a stream.
pub(crate) fn admit(headers: &Headers) -> bool {
    Label::of(headers).is_some()
}

/// Serves a client over SPDY, whose streams come from `opened`, for as long as it is there.
pub(crate) async fn over_spdy(
    request: PortForwardRequest,
    mut opened: mpsc::Receiver<Stream>,
    creation_timeout: Duration,
) -> io::Result<()> {
    let mut half_pairs: Vec<HalfPair> = Vec::new();
    let mut forwards = JoinSet::new();
    loop {
        // The oldest is the first.
        let due = half_pairs.first().map(|half| half.since + creation_timeout);
        tokio::select! {
            stream = opened.recv() => match stream {
                Some(stream) => if let Some(pair) = complete(&mut half_pairs, stream)? {
                    forwards.spawn(forward(request.clone(), pair));
                },
                None => return Ok(()),
            },
            Some(_) = forwards.join_next() => {}
            () = at(due) => half_pairs.remove(0).give_up().await?,
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A stream that waits for its sibling.
struct HalfPair {
    request: String,
    label: Label,
    stream: Stream,
    since: Instant,
}

impl HalfPair {
    async fn give_up(self) -> io::Result<()> {
        if self.label.role == Role::Error {
            let text = "the other stream of this connection was not opened in time";
            self.stream
                .outlet
                .send(&mut Chunk::copy_of(text.as_bytes()))
                .await?;
            self.stream.outlet.finish()?;
        }
        self.stream.outlet.reset()
    }
}

/// Both streams of a connection.
struct Pair {
    port: u16,
    inbox: Inbox,
    data: Outlet,
    error: Outlet,
}

/// Finds the sibling of a stream; keeps the stream if it is the first.
fn complete(half_pairs: &mut Vec<HalfPair>, stream: Stream) -> io::Result<Option<Pair>> {
    let Some(label) = Label::of(&stream.headers) else {
        stream.outlet.reset()?;
        return Ok(None);
    };
    let request = label.request(stream.id);
    let Some(at) = half_pairs.iter().position(|half| half.request == request) else {
        half_pairs.push(HalfPair {
            request,
            label,
            stream,
            since: Instant::now(),
        });
        return Ok(None);
    };
    let half = half_pairs.remove(at);
    let (data, error) = match (label.role, half.label.role) {
        (Role::Data, Role::Error) if label.port == half.label.port => (stream, half.stream),
        (Role::Error, Role::Data) if label.port == half.label.port => (half.stream, stream),
        _ => {
            stream.outlet.reset()?;
            half.stream.outlet.reset()?;
            return Ok(None);
        }
    };
    Ok(Some(Pair {
        port: label.port,
        inbox: data.inbox,
        data: data.outlet,
        error: error.outlet,
    }))
}

/// The channels of a WebSocket.
pub(crate) struct Channels(Vec<Pair>);

/// Channels for `ports`, at most [`WEBSOCKET_PORTS_MAX`].
pub(crate) fn channels(
    ports: &[u16],
    version: ChannelVersion,
    outbox: &Arc<Outbox>,
) -> (Routes, Channels) {
    let mut routes = Routes::default();
    let outlet = |channel| Outlet::websocket(outbox.clone(), channel, version.codec);
    let pairs = (0..).step_by(2).zip(ports.iter().take(WEBSOCKET_PORTS_MAX));
    let pairs = pairs.map(|(channel, port)| Pair {
        port: *port,
        inbox: routes.open(channel),
        data: outlet(channel),
        error: outlet(channel + 1),
    });
    let pairs = pairs.collect();
    (routes, Channels(pairs))
}

/// Serves a client over a WebSocket, until the connections to all ports have ended.
pub(crate) async fn over_websocket(
    request: PortForwardRequest,
    Channels(pairs): Channels,
) -> io::Result<()> {
    for pair in &pairs {
        let port = pair.port.to_le_bytes();
        pair.data.send(&mut Chunk::copy_of(&port)).await?;
        pair.error.send(&mut Chunk::copy_of(&port)).await?;
    }
    let mut forwards = JoinSet::new();
    for pair in pairs {
        forwards.spawn(forward(request.clone(), pair));
    }
    while forwards.join_next().await.is_some() {}
    Ok(())
}

/// Why a connection ended early.
enum Broken {
    /// The port could not be dialled: the client is told.
    Dial(String),
    /// The connection failed: the data stream is reset. No more is said of it, because clients end
    /// the whole session when they hear of an error.
    Port,
    /// The client does not want it any more, or has left.
    Client,
}

/// Dials a port and moves bytes, until both sides have ended.
async fn forward(request: PortForwardRequest, pair: Pair) {
    let Pair {
        port,
        inbox,
        data,
        error,
    } = pair;
    let broken = match dial(&request, port).await {
        Ok(stream) => relay(stream, inbox, &data).await.err(),
        Err(reason) => Some(Broken::Dial(reason)),
    };
    // A client that has left cannot be told, and its session ends.
    let _ = match broken {
        None | Some(Broken::Client) => data.finish(),
        Some(Broken::Port) => data.reset(),
        Some(Broken::Dial(reason)) => {
            let text = format!("error forwarding port {port}: {reason}");
            let told = error.send(&mut Chunk::copy_of(text.as_bytes())).await;
            told.and_then(|()| error.finish())
                .and_then(|()| data.reset())
        }
    };
    let _ = error.finish();
}

async fn dial(request: &PortForwardRequest, port: u16) -> Result<TcpStream, String> {
    let PortForwardRequest { ports, connect } = request;
    if !ports.is_empty() && !ports.contains(&port) {
        return Err("the port was not asked for".to_owned());
    }
    let dialled = timeout(CONNECT_TIMEOUT, dial_now(connect, port)).await;
    match dialled {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("dialling took too long".to_owned()),
    }
}

async fn dial_now(connect: &Connect, port: u16) -> io::Result<TcpStream> {
    let stream = connect(port).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether one side of a connection has ended, and when something moved.
struct Progress {
    activity: Activity,
    half_closed: Notify,
}

impl Progress {
    async fn stalled(&self) {
        self.half_closed.notified().await;
        self.activity.idle_for(HALF_CLOSED_IDLE).await;
    }
}

async fn relay(stream: TcpStream, inbox: Inbox, data: &Outlet) -> Result<(), Broken> {
    let (reader, writer) = stream.into_split();
    let progress = Progress {
        activity: Activity::new(),
        half_closed: Notify::new(),
    };
    let both = async {
        let up = upward(inbox, writer, &progress);
        let down = downward(reader, data, &progress);
        tokio::try_join!(up, down).map(drop)
    };
    tokio::select! {
        ended = both => ended,
        () = progress.stalled() => Ok(()),
    }
}

/// From the client to the port. A port that takes no more may still have something to say.
async fn upward(
    mut inbox: Inbox,
    mut port: OwnedWriteHalf,
    progress: &Progress,
) -> Result<(), Broken> {
    loop {
        match inbox.next().await {
            Received::Data(bytes) => {
                if port.write_all(&bytes).await.is_err() {
                    break;
                }
                progress.activity.touch();
            }
            Received::End => break,
            Received::Reset => return Err(Broken::Client),
        }
    }
    // It fails when the other side has closed already.
    let _ = port.shutdown().await;
    progress.activity.touch();
    progress.half_closed.notify_one();
    Ok(())
}

/// From the port to the client.
async fn downward(
    mut port: OwnedReadHalf,
    data: &Outlet,
    progress: &Progress,
) -> Result<(), Broken> {
    let mut size = ReadSize::default();
    let mut chunk = Chunk::with_capacity(size.bytes());
    loop {
        if chunk.capacity() != size.bytes() {
            chunk = Chunk::with_capacity(size.bytes());
        }
        let count = port.read(chunk.space()).await.map_err(|_| Broken::Port)?;
        progress.activity.touch();
        if count == 0 {
            break;
        }
        size.learn(count);
        chunk.set_len(count);
        data.send(&mut chunk).await.map_err(|_| Broken::Client)?;
        progress.activity.touch();
    }
    progress.half_closed.notify_one();
    data.finish().map_err(|_| Broken::Client)
}
