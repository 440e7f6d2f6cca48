//! What the callers of the server can be told.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a request is not taken, or the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never work (CRI: `InvalidArgument`).
    #[error("{0}")]
    InvalidRequest(&'static str),

    /// As many tokens as there may be wait for their clients (CRI: `ResourceExhausted`).
    #[error("{max} requests for streams already wait for their clients")]
    TooManyRequests { max: usize },

    /// The server's address cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },

    /// A certificate or key cannot be read.
    #[error("cannot read {}", path.display())]
    ReadTls {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },

    /// Certificates and key do not fit together, or are of a kind that is not supported.
    #[error("the certificates for streaming cannot be used: {reason}")]
    InvalidTls { reason: String },

    /// The kernel gives no random numbers.
    #[error("cannot make a token: {reason}")]
    Random { reason: String },
}
