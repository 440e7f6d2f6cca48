//! The server: its socket, its tokens, and the connections that it has accepted.

use crate::error::Error;
use crate::handshake::upgrade;
use crate::request::{PortForwardRequest, ProcessRequest};
use crate::settings::Settings;
use crate::tls;
use crate::tokens::{Request, Tokens};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take from its connection to its upgrade.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be accepted, because files or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A server for the streams of exec, attach and port-forward. Dropping it ends all sessions.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
    runtime: tokio::runtime::Handle,
}

/// What sessions need.
pub(crate) struct Shared {
    settings: Settings,
    pub(crate) tokens: Tokens,
    tls: Option<RwLock<Arc<rustls::ServerConfig>>>,
}

impl Shared {
    /// None when the connections are not to be encrypted.
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        let config = self.tls.as_ref()?;
        Some(
            config
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
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
