//! The server: its socket, HTTP up to the upgrade, and which session follows.

use crate::activity::Activity;
use crate::command;
use crate::error::Error;
use crate::negotiate::{Agreement, Protocol, Refusal, negotiate};
use crate::outbox::{Envelope, Outbox};
use crate::portforward::{self, WEBSOCKET_PORTS_MAX};
use crate::relay::Kind;
use crate::request::{PortForwardRequest, ProcessRequest};
use crate::session::{Language, Session};
use crate::settings::Settings;
use crate::spdy::{self, Stream};
use crate::tls;
use crate::tokens::{Purpose, Request, Tokens};
use crate::transport::{Transport, Wire};
use crate::websocket::channel::ChannelDecoder;
use crate::websocket::tunnel::Source;
use crate::websocket::{self, Routes};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

type HttpRequest = http::Request<hyper::body::Incoming>;
type HttpResponse = http::Response<http_body_util::Full<bytes::Bytes>>;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take from its connection to its upgrade.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be accepted, because files or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head, all that an HTTP client may send before it is upgraded or refused.
const HTTP_HEAD_MAX_BYTES: usize = 16 << 10;

/// A server for the streams of exec, attach and port-forward. Dropping it ends all sessions.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
    runtime: tokio::runtime::Handle,
}

/// What sessions need.
struct Shared {
    settings: Settings,
    tokens: Tokens,
    tls: Option<RwLock<Arc<rustls::ServerConfig>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// Listens, and serves in the background.
    ///
    /// # Errors
    /// If the address or the certificates cannot be used.
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let tls = settings.tls.as_ref().map(tls::configure).transpose()?;
        let failed = |source| Error::Listen {
            address: settings.address,
            source,
        };
        let listener = TcpListener::bind(settings.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            tokens: Tokens::new(settings.token_ttl, settings.tokens_max),
            tls: tls.map(RwLock::new),
            settings,
        });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Self {
            address,
            shared,
            accepting,
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL at which a client gets the streams of a new process.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], and [`Error::TooManyRequests`] when as many URLs as allowed are good.
    pub fn exec(&self, request: ProcessRequest) -> Result<String, Error> {
        check(&request)?;
        self.issue(Request::Exec(request))
    }

    /// The URL at which a client gets the streams of a process that runs.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], and [`Error::TooManyRequests`] when as many URLs as allowed are good.
    pub fn attach(&self, request: ProcessRequest) -> Result<String, Error> {
        check(&request)?;
        self.issue(Request::Attach(request))
    }

    /// The URL at which a client gets connections to ports.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], and [`Error::TooManyRequests`] when as many URLs as allowed are good.
    pub fn port_forward(&self, request: PortForwardRequest) -> Result<String, Error> {
        if request.ports.contains(&0) {
            return Err(Error::InvalidRequest("port 0 cannot be forwarded"));
        }
        self.issue(Request::PortForward(request))
    }

    /// Reads the certificates anew; connections that stand keep what they have.
    ///
    /// # Errors
    /// If they cannot be used; then the old ones are kept.
    pub fn reload_tls(&self) -> Result<(), Error> {
        if let (Some(settings), Some(tls)) = (&self.shared.settings.tls, &self.shared.tls) {
            let config = tls::configure(settings)?;
            *tls.write().unwrap_or_else(PoisonError::into_inner) = config;
        }
        Ok(())
    }

    fn issue(&self, request: Request) -> Result<String, Error> {
        let path = request.purpose().path();
        let token = self.shared.tokens.issue(request)?;
        let shared = Arc::downgrade(&self.shared);
        let ttl = self.shared.settings.token_ttl;
        self.runtime.spawn(async move {
            tokio::time::sleep(ttl).await;
            if let Some(shared) = shared.upgrade() {
                shared.tokens.expire();
            }
        });
        let scheme = match self.shared.tls {
            Some(_) => "https",
            None => "http",
        };
        Ok(format!("{scheme}://{}/{path}/{token}", self.address))
    }
}

fn check(request: &ProcessRequest) -> Result<(), Error> {
    if request.tty && request.stderr {
        let reason = "tty and stderr cannot both be true: a terminal has one output";
        return Err(Error::InvalidRequest(reason));
    }
    if !request.stdin && !request.stdout && !request.stderr {
        return Err(Error::InvalidRequest(
            "one of stdin, stdout or stderr must be true",
        ));
    }
    Ok(())
}

/// Accepts connections for ever. Sessions end when this future is dropped.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, shared.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "no connection for streams can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let upgraded = timeout(HANDSHAKE_TIMEOUT, upgrade(stream, &shared)).await;
    if let Ok(Some(upgraded)) = upgraded {
        upgraded.run(&shared.settings).await;
    }
}

/// A connection that a client has upgraded.
struct Upgraded {
    transport: Transport,
    /// What has been read behind the request.
    first: bytes::Bytes,
    granted: Granted,
}

/// What was asked for, and what is spoken.
struct Granted {
    request: Request,
    protocol: Protocol,
    /// Of the URL's query, for a port-forward.
    ports: Vec<u16>,
}

/// Speaks HTTP until the client has upgraded; none if it does not get that far.
async fn upgrade(stream: TcpStream, shared: &Arc<Shared>) -> Option<Upgraded> {
    prepare(&stream);
    let transport = match &shared.tls {
        None => Transport::Plain(stream),
        Some(config) => {
            let config = config
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let accepted = tokio_rustls::TlsAcceptor::from(config).accept(stream).await;
            Transport::Tls(Box::new(accepted.ok()?))
        }
    };
    let slot = Arc::new(Mutex::new(None));
    let service = hyper::service::service_fn(|request| {
        let response = respond(shared, request, &slot);
        async { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .max_buf_size(HTTP_HEAD_MAX_BYTES)
        .serve_connection(hyper_util::rt::TokioIo::new(transport), service)
        .with_upgrades()
        .await
        .ok()?;
    let granted = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (on_upgrade, granted): (hyper::upgrade::OnUpgrade, _) = granted?;
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgraded
        .downcast::<hyper_util::rt::TokioIo<Transport>>()
        .ok()?;
    Some(Upgraded {
        transport: parts.io.into_inner(),
        first: parts.read_buf,
        granted,
    })
}

/// Keystrokes are not held back, and the kernel notices clients that are gone.
fn prepare(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    /// Seconds of silence before the kernel asks whether the peer is there, and between its questions.
    const KEEPALIVE_SECONDS: u32 = 15;
    // A socket that cannot be set serves too.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS);
}

type Slot = Mutex<Option<(hyper::upgrade::OnUpgrade, Granted)>>;

/// Answers a request; one that is granted is put into `slot`.
fn respond(shared: &Shared, mut request: HttpRequest, slot: &Slot) -> HttpResponse {
    match grant(shared, &request) {
        Ok((granted, headers)) => {
            let on_upgrade = hyper::upgrade::on(&mut request);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((on_upgrade, granted));
            answer(
                http::StatusCode::SWITCHING_PROTOCOLS,
                headers,
                String::new(),
            )
        }
        Err(refusal) => {
            let mut headers = http::HeaderMap::new();
            for (name, value) in refusal.headers {
                headers.append(name, value);
            }
            answer(refusal.status, headers, refusal.reason)
        }
    }
}

fn answer(status: http::StatusCode, headers: http::HeaderMap, text: String) -> HttpResponse {
    let mut response = HttpResponse::new(text.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Decides on a request. A token is used up by a request that is granted, or never could be.
fn grant(shared: &Shared, request: &HttpRequest) -> Result<(Granted, http::HeaderMap), Refusal> {
    let not_found = || Refusal::new(http::StatusCode::NOT_FOUND, "404 page not found");
    let (purpose, token) = route(request.uri().path()).ok_or_else(not_found)?;
    if ![http::Method::GET, http::Method::POST].contains(request.method()) {
        let mut refusal = Refusal::new(http::StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        let allowed = http::HeaderValue::from_static("GET, POST");
        refusal.headers.push((http::header::ALLOW, allowed));
        return Err(refusal);
    }
    if !shared.tokens.is_good(token, purpose) {
        return Err(not_found());
    }
    let agreement = negotiate(purpose, request.method(), request.headers())?;
    let Agreement { protocol, headers } = agreement;
    let ports = query_ports(request.uri().query().unwrap_or_default())?;
    let request = shared.tokens.redeem(token).ok_or_else(not_found)?;
    if let (Request::PortForward(forward), Protocol::Channels(_)) = (&request, protocol)
        && forward.ports.len().max(ports.len()) > WEBSOCKET_PORTS_MAX
    {
        return Err(Refusal::new(
            http::StatusCode::BAD_REQUEST,
            "too many ports",
        ));
    }
    let granted = Granted {
        request,
        protocol,
        ports,
    };
    Ok((granted, headers))
}

/// `/exec/TOKEN` and the like.
fn route(path: &str) -> Option<(Purpose, &str)> {
    let (name, token) = path.strip_prefix('/')?.split_once('/')?;
    let purpose = Purpose::ALL
        .into_iter()
        .find(|purpose| purpose.path() == name)?;
    Some((purpose, token))
}

/// The ports of `port=80,81&port=82`.
fn query_ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let lists = query
        .split('&')
        .filter_map(|parameter| parameter.strip_prefix("port="));
    let ports = lists
        .flat_map(|list| list.split("%2C"))
        .flat_map(|list| list.split(','));
    let ports = ports.map(|port| port.parse().ok().filter(|port| *port > 0));
    let invalid = || Refusal::new(http::StatusCode::BAD_REQUEST, "a port of the query is none");
    ports.collect::<Option<_>>().ok_or_else(invalid)
}

impl Upgraded {
    async fn run(self, settings: &Settings) {
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
