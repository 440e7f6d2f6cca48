//! Why a connection cannot go on.

use std::io;

/// What ends the reading of a connection, other than the client's leaving.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client is told, and cut off.
    #[error("the client breaks the rules of the protocol: {0}")]
    Violation(&'static str),
    #[error("the connection failed")]
    Io(#[from] io::Error),
}
