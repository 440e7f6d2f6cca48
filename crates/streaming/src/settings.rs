//! How the server behaves.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What can be set; the defaults are those of the kubelet's own streaming server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// A connection on which nothing has moved for so long is closed.
    pub idle_timeout: Duration,
    /// How long a client may take to open the streams that it asked for.
    pub creation_timeout: Duration,
    /// How long a URL is good for.
    pub token_ttl: Duration,
    /// How many URLs may be good at once.
    pub tokens_max: usize,
    /// Without, the URLs are `http://`.
    pub tls: Option<TlsSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            creation_timeout: Duration::from_secs(30),
            token_ttl: Duration::from_secs(60),
            tokens_max: 1000,
            tls: None,
        }
    }
}

/// Files in PEM format. At least TLS 1.2 is spoken.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The server's certificate, and those that sign it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients need a certificate that one of these signed.
    pub client_ca: Option<PathBuf>,
}
