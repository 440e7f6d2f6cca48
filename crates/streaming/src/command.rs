//! The streams of an exec or an attach, as each protocol has them.

use crate::buffer::Chunk;
use crate::negotiate::{ChannelVersion, CommandVersion};
use crate::outbox::Outbox;
use crate::outlet::Outlet;
use crate::relay::{self, Kind, Streams};
use crate::request::ProcessRequest;
use crate::spdy::Stream;
use crate::spdy::headers::Headers;
use crate::status;
use crate::websocket::Routes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What a stream is for: its `streamType` over SPDY, its channel over WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Role {
    fn of(headers: &Headers) -> Option<Self> {
        match headers.get("streamtype")? {
            "stdin" => Some(Self::Stdin),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "error" => Some(Self::Error),
            "resize" => Some(Self::Resize),
            _ => None,
        }
    }
}

/// Whether a client may open such a stream.
pub(crate) fn admit(headers: &Headers) -> bool {
    Role::of(headers).is_some()
}

/// The streams that a client has to open before anything starts.
fn wanted(request: &ProcessRequest, version: CommandVersion) -> Vec<Role> {
    let wishes = [
        (Role::Error, true),
        (Role::Stdin, request.stdin),
        (Role::Stdout, request.stdout),
        (Role::Stderr, request.stderr),
        (Role::Resize, request.tty && version.resize),
    ];
    let wanted = wishes.into_iter().filter(|(_, wanted)| *wanted);
    wanted.map(|(role, _)| role).collect()
}

/// Serves a client over SPDY, whose streams come from `opened`.
pub(crate) async fn over_spdy(
    kind: Kind,
    request: ProcessRequest,
    version: CommandVersion,
    opened: mpsc::Receiver<Stream>,
    creation_timeout: Duration,
) -> io::Result<()> {
    let mut gathered = Gathered(Vec::new());
    let gathering = gathered.gather(wanted(&request, version), opened);
    let complete = timeout(creation_timeout, gathering).await;
    let Some(error) = gathered.take(Role::Error).map(|stream| stream.outlet) else {
        return Ok(());
    };
    if complete != Ok(true) {
        let late = status::failure(
            version.status,
            "the client did not open its streams in time",
        );
        return relay::tell(&error, &late).await;
    }
    let (stdin, stdin_outlet) = split(gathered.take(Role::Stdin));
    let (resize, resize_outlet) = split(gathered.take(Role::Resize));
    let streams = Streams {
        error,
        status: version.status,
        stdin,
        stdout: gathered.take(Role::Stdout).map(|stream| stream.outlet),
        stderr: gathered.take(Role::Stderr).map(|stream| stream.outlet),
        resize,
        silent: stdin_outlet.into_iter().chain(resize_outlet).collect(),
    };
    relay::run(kind, request.start, streams).await
}

fn split(stream: Option<Stream>) -> (Option<crate::inbox::Inbox>, Option<Outlet>) {
    stream.map(|stream| (stream.inbox, stream.outlet)).unzip()
}

/// The streams that have been opened.
struct Gathered(Vec<(Role, Stream)>);

impl Gathered {
    /// True when all that are wanted are there; false if the client leaves before.
    async fn gather(&mut self, wanted: Vec<Role>, mut opened: mpsc::Receiver<Stream>) -> bool {
        while self.0.len() < wanted.len() {
            let Some(stream) = opened.recv().await else {
                return false;
            };
            match Role::of(&stream.headers) {
                Some(role) if wanted.contains(&role) && !self.has(role) => {
                    self.0.push((role, stream));
                }
                // Nothing will be said on it; what comes on it is thrown away.
                _ => drop(stream.outlet.finish()),
            }
        }
        true
    }

    fn has(&self, role: Role) -> bool {
        self.0.iter().any(|(had, _)| *had == role)
    }

    fn take(&mut self, role: Role) -> Option<Stream> {
        let at = self.0.iter().position(|(had, _)| *had == role)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// The channels of a WebSocket.
pub(crate) fn channels(
    request: &ProcessRequest,
    version: ChannelVersion,
    outbox: &Arc<Outbox>,
) -> (Routes, Streams) {
    let mut routes = Routes::default();
    let outlet = |role: Role| Outlet::websocket(outbox.clone(), role as u8, version.codec);
    let streams = Streams {
        error: outlet(Role::Error),
        status: version.status,
        stdin: request.stdin.then(|| routes.open(Role::Stdin as u8)),
        stdout: request.stdout.then(|| outlet(Role::Stdout)),
        stderr: request.stderr.then(|| outlet(Role::Stderr)),
        resize: request.tty.then(|| routes.open(Role::Resize as u8)),
        silent: Vec::new(),
    };
    (routes, streams)
}

/// Serves a client over a WebSocket.
pub(crate) async fn over_websocket(
    kind: Kind,
    request: ProcessRequest,
    streams: Streams,
) -> io::Result<()> {
    // Clients learn from an empty message on the first of these that the connection stands.
    let first = streams.stdout.as_ref().or(streams.stderr.as_ref());
    let first = first.unwrap_or(&streams.error);
    first.send(&mut Chunk::copy_of(b"")).await?;
    relay::run(kind, request.start, streams).await
}
