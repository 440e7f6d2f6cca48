//! HTTP: from a connection that was accepted to one that is upgraded, for those who may.

use crate::negotiate::{Agreement, Protocol, Refusal, negotiate};
use crate::portforward::WEBSOCKET_PORTS_MAX;
use crate::server::Shared;
use crate::tokens::{Purpose, Request};
use crate::transport::Transport;
use crate::upgraded::{Granted, Upgraded};
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

type HttpRequest = http::Request<hyper::body::Incoming>;
type HttpResponse = http::Response<http_body_util::Full<bytes::Bytes>>;

/// Bytes of a request's head, all that an HTTP client may send before it is upgraded or refused.
const HTTP_HEAD_MAX_BYTES: usize = 64 << 10;
/// Seconds of silence before the kernel asks whether the peer is there, and between its questions.
const KEEPALIVE_SECONDS: u32 = 15;

/// Speaks HTTP, over TLS if that is configured, until the client has upgraded; none if it does not get
/// that far.
pub(crate) async fn upgrade(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    shared: &Arc<Shared>,
) -> Option<Upgraded> {
    prepare(&stream);
    let transport = match tls {
        None => Transport::Plain(stream),
        Some(config) => {
            let accepted = TlsAcceptor::from(config).accept(stream).await;
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
        .serve_connection(TokioIo::new(transport), service)
        .with_upgrades()
        .await
        .ok()?;
    let granted = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (on_upgrade, granted): (OnUpgrade, _) = granted?;
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Transport>>().ok()?;
    Some(Upgraded {
        transport: parts.io.into_inner(),
        first: parts.read_buf,
        granted,
    })
}

/// Keystrokes are not held back, and the kernel notices clients that are gone.
fn prepare(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    // A socket that cannot be set serves too.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS);
}

type Slot = Mutex<Option<(OnUpgrade, Granted)>>;

/// Answers a request; one that is granted is put into `slot`.
fn respond(shared: &Shared, mut request: HttpRequest, slot: &Slot) -> HttpResponse {
    match grant(shared, &request) {
        Ok((granted, headers)) => {
            let on_upgrade = hyper::upgrade::on(&mut request);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((on_upgrade, granted));
            answer(StatusCode::SWITCHING_PROTOCOLS, headers, String::new())
        }
        Err(refusal) => {
            let mut headers = HeaderMap::new();
            for (name, value) in refusal.headers {
                headers.append(name, value);
            }
            answer(refusal.status, headers, refusal.reason)
        }
    }
}

fn answer(status: StatusCode, headers: HeaderMap, text: String) -> HttpResponse {
    let mut response = HttpResponse::new(text.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Decides on a request. A token is used up by a request that is granted, or never could be.
fn grant(shared: &Shared, request: &HttpRequest) -> Result<(Granted, HeaderMap), Refusal> {
    let not_found = || Refusal::new(StatusCode::NOT_FOUND, "404 page not found");
    let (purpose, token) = route(request.uri().path()).ok_or_else(not_found)?;
    if ![Method::GET, Method::POST].contains(request.method()) {
        let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        let allowed = HeaderValue::from_static("GET, POST");
        refusal.headers.push((ALLOW, allowed));
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
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "too many ports"));
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
    let invalid = || Refusal::new(StatusCode::BAD_REQUEST, "a port of the query is none");
    ports.collect::<Option<_>>().ok_or_else(invalid)
}
