//! The endpoint that Prometheus scrapes: `GET /metrics` over HTTP/1.1, one request for each connection.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Clients at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// How long a client may take from its connection to the end of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted, because files or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PATH: &str = "/metrics";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Its address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be served on {address}")]
pub struct Error {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A server that listens, and serves when it is told to.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// Listens; nobody is answered yet.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self { listener }),
            Err(source) => Err(Error { address, source }),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers with what `tell` tells at that moment, for ever.
    pub async fn serve(self, tell: impl Fn() -> String + Send + Sync + 'static) -> Infallible {
        let tell = Arc::new(tell);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(converse(stream, tell.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "no connection for metrics can be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn converse(stream: TcpStream, tell: Arc<impl Fn() -> String>) {
    let service = service_fn(|request| {
        let answer = answer(&request, &*tell);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    let conversation = server
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that is slow or goes away is no news.
    let _ = timeout(CONNECTION_TIMEOUT, conversation).await;
}

fn answer(request: &Request<Incoming>, tell: &impl Fn() -> String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, PATH) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
            *response.body_mut() = Full::from(tell());
        }
        (_, PATH) => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn served() -> SocketAddr {
        let endpoint = Endpoint::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = endpoint.address().unwrap();
        tokio::spawn(endpoint.serve(|| "crisp_shims 1\n".to_owned()));
        address
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_told_under_their_path_only() {
        let address = served().await;
        let answer = ask(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(OPENMETRICS), "{answer}");
        assert!(answer.ends_with("\r\n\r\ncrisp_shims 1\n"), "{answer}");
        let answer = ask(address, "HEAD /metrics").await;
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = ask(address, "POST /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        let answer = ask(address, "GET /").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_say_nothing_keep_nobody_out_for_long() {
        let address = served().await;
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = ask(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}
