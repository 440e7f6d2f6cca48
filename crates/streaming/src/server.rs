//! The server: its socket, its tokens, and the connections that it has accepted.

use crate::error::Error;
use crate::handshake::upgrade;
use crate::request::{PortForwardRequest, ProcessRequest};
use crate::settings::Settings;
use crate::tls;
use crate::tokens::{Request, Tokens};
use crate::upgraded::Upgraded;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Sessions at once; more clients wait to be accepted.
const SESSIONS_MAX: usize = 1024;
/// Clients at once that have not yet shown a token. For one more the oldest is cut off: whoever can
/// reach the server can connect, and must not keep those out who may use it.
const STRANGERS_MAX: usize = 256;
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
    pub(crate) tokens: Tokens,
    terms: RwLock<Arc<Terms>>,
}

/// What a connection goes by from its beginning to its end, whatever changes meanwhile.
struct Terms {
    settings: Settings,
    /// None: the connection is not encrypted.
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Terms {
    /// Reads the certificates.
    fn new(settings: Settings) -> Result<Arc<Self>, Error> {
        let tls = settings.tls.as_ref().map(tls::configure).transpose()?;
        Ok(Arc::new(Self { settings, tls }))
    }
}

impl Shared {
    fn terms(&self) -> Arc<Terms> {
        self.terms
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("settings", &self.shared.terms().settings)
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
        let terms = Terms::new(settings)?;
        let settings = &terms.settings;
        let failed = |source| Error::Listen {
            address: settings.address,
            source,
        };
        let listener = TcpListener::bind(settings.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            tokens: Tokens::new(settings.token_ttl, settings.tokens_max),
            terms: RwLock::new(terms),
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

    /// Takes up other timeouts and TLS settings, and reads the certificates anew, for connections from
    /// now on. The address stays, and so do the bounds of tokens.
    ///
    /// # Errors
    /// If the certificates cannot be used; then nothing changes.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), Error> {
        let terms = Terms::new(settings)?;
        *self
            .shared
            .terms
            .write()
            .unwrap_or_else(PoisonError::into_inner) = terms;
        Ok(())
    }

    fn issue(&self, request: Request) -> Result<String, Error> {
        let path = request.purpose().path();
        let token = self.shared.tokens.issue(request)?;
        let shared = Arc::downgrade(&self.shared);
        let ttl = self.shared.tokens.ttl();
        self.runtime.spawn(async move {
            tokio::time::sleep(ttl).await;
            if let Some(shared) = shared.upgrade() {
                shared.tokens.expire();
            }
        });
        let scheme = match self.shared.terms().tls {
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
    let mut strangers = Strangers::default();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if sessions.len() < SESSIONS_MAX => match accepted {
                Ok((stream, _)) => strangers.admit(stream, shared.clone()),
                Err(error) => {
                    tracing::warn!(%error, "no connection for streams can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(guest) = strangers.next() => if let Some(guest) = guest {
                sessions.spawn(async move { guest.upgraded.run(&guest.terms.settings).await });
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// A connection whose client has shown a token.
struct Guest {
    upgraded: Upgraded,
    terms: Arc<Terms>,
}

/// Connections whose clients have not yet shown one.
#[derive(Default)]
struct Strangers {
    handshakes: JoinSet<Option<Guest>>,
    /// Those that are under way, the oldest first.
    order: VecDeque<AbortHandle>,
}

impl Strangers {
    fn admit(&mut self, stream: TcpStream, shared: Arc<Shared>) {
        self.order.retain(|handshake| !handshake.is_finished());
        if self.order.len() >= STRANGERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        let handshake = async move {
            let terms = shared.terms();
            let upgraded = upgrade(stream, terms.tls.clone(), &shared);
            let upgraded = timeout(HANDSHAKE_TIMEOUT, upgraded).await.ok()??;
            Some(Guest { upgraded, terms })
        };
        self.order.push_back(self.handshakes.spawn(handshake));
    }

    /// One that may be served, or nothing for one that has left; none when there is nobody.
    async fn next(&mut self) -> Option<Option<Guest>> {
        let ended = self.handshakes.join_next().await?;
        Some(ended.ok().flatten())
    }
}
