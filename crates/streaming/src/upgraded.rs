//! A connection after its upgrade: which session follows, and what that is made of.

use crate::activity::Activity;
use crate::command;
use crate::negotiate::Protocol;
use crate::outbox::{Envelope, Outbox};
use crate::portforward;
use crate::relay::Kind;
use crate::request::{PortForwardRequest, ProcessRequest};
use crate::session::{Language, Session};
use crate::settings::Settings;
use crate::spdy::{self, Stream};
use crate::tokens::Request;
use crate::transport::{Transport, Wire};
use crate::websocket::channel::ChannelDecoder;
use crate::websocket::tunnel::Source;
use crate::websocket::{self, Routes};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A connection that a client has upgraded.
pub(crate) struct Upgraded {
    pub(crate) transport: Transport,
    /// What has been read behind the request.
    pub(crate) first: bytes::Bytes,
    pub(crate) granted: Granted,
}

/// What was asked for, and what is spoken.
pub(crate) struct Granted {
    pub(crate) request: Request,
    pub(crate) protocol: Protocol,
    /// Of the URL's query, for a port-forward.
    pub(crate) ports: Vec<u16>,
}

impl Upgraded {
    /// Serves the client to its end.
    pub(crate) async fn run(self, settings: &Settings) {
        let Self {
            transport,
            first,
            granted,
        } = self;
        let activity = Arc::new(Activity::new());
        let (wire, writer) = transport.split(&first, activity.clone());
        let (envelope, language) = match granted.protocol {
            Protocol::SpdyCommand(_) | Protocol::SpdyForward => (Envelope::None, Language::Spdy),
            Protocol::TunnelledForward => (Envelope::WebSocket, Language::Both),
            Protocol::Channels(_) => (Envelope::None, Language::WebSocket),
        };
        let session = Session {
            outbox: Arc::new(Outbox::new(writer, envelope, activity.clone())),
            activity,
            idle_timeout: settings.idle_timeout,
            language,
        };
        match granted.request {
            Request::Exec(request) => {
                process(
                    session,
                    wire,
                    granted.protocol,
                    Kind::Exec,
                    request,
                    settings,
                )
                .await;
            }
            Request::Attach(request) => {
                process(
                    session,
                    wire,
                    granted.protocol,
                    Kind::Attach,
                    request,
                    settings,
                )
                .await;
            }
            Request::PortForward(mut request) => {
                if request.ports.is_empty() {
                    request.ports = granted.ports;
                }
                forward(session, wire, granted.protocol, request, settings).await;
            }
        }
    }
}

async fn process(
    session: Session,
    wire: Wire,
    protocol: Protocol,
    kind: Kind,
    request: ProcessRequest,
    settings: &Settings,
) {
    match protocol {
        Protocol::SpdyCommand(version) => {
            let source = Source::Plain(wire);
            let (connection, opened) = spdy_connection(&session, source, command::admit);
            let creation = settings.creation_timeout;
            let work = command::over_spdy(kind, request, version, opened, creation);
            session.run(connection.run(), work).await;
        }
        Protocol::Channels(version) => {
            let (routes, streams) = command::channels(&request, version, &session.outbox);
            let decoder = ChannelDecoder::new(version.codec, version.half_close);
            let connection = websocket_connection(&session, wire, decoder, routes);
            let work = command::over_websocket(kind, request, streams);
            session.run(connection.run(), work).await;
        }
        Protocol::SpdyForward | Protocol::TunnelledForward => {
            unreachable!("these are only agreed on for a port-forward")
        }
    }
}

async fn forward(
    session: Session,
    wire: Wire,
    protocol: Protocol,
    request: PortForwardRequest,
    settings: &Settings,
) {
    let source = match protocol {
        Protocol::SpdyForward => Source::Plain(wire),
        Protocol::TunnelledForward => Source::tunnel(wire, session.outbox.clone()),
        Protocol::Channels(version) => {
            let (routes, channels) =
                portforward::channels(&request.ports, version, &session.outbox);
            let decoder = ChannelDecoder::new(version.codec, version.half_close);
            let connection = websocket_connection(&session, wire, decoder, routes);
            let work = portforward::over_websocket(request, channels);
            return session.run(connection.run(), work).await;
        }
        Protocol::SpdyCommand(_) => unreachable!("this is never agreed on for a port-forward"),
    };
    let (connection, opened) = spdy_connection(&session, source, portforward::admit);
    let work = portforward::over_spdy(request, opened, settings.creation_timeout);
    session.run(connection.run(), work).await;
}

fn spdy_connection(
    session: &Session,
    source: Source,
    admit: fn(&spdy::headers::Headers) -> bool,
) -> (spdy::Connection, mpsc::Receiver<Stream>) {
    let (opened, streams) = mpsc::channel(spdy::BACKLOG);
    let connection = spdy::Connection::new(source, session.outbox.clone(), admit, opened);
    (connection, streams)
}

fn websocket_connection(
    session: &Session,
    wire: Wire,
    channels: ChannelDecoder,
    routes: Routes,
) -> websocket::Connection {
    websocket::Connection {
        wire,
        outbox: session.outbox.clone(),
        channels,
        routes,
    }
}
