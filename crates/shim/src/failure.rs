//! Why a request is refused.

use crate::journal::Chain;
use crisp_runtime::StartError;
use crisp_shim_api::message::{Failure, failure::Kind, reply};
use std::error::Error;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("no {what} {id:?}")]
    NotFound { what: &'static str, id: String },
    #[error("{what} {id:?} exists already")]
    AlreadyExists { what: &'static str, id: String },
    #[error("{what} {id:?} is not running")]
    NotRunning { what: &'static str, id: String },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{op}")]
    Internal {
        op: &'static str,
        #[source]
        source: Box<dyn Error>,
    },
}

impl RequestError {
    /// For `map_err`: the shim or the kernel failed at `op`.
    pub(crate) fn internal<E: Error + 'static>(op: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Internal {
            op,
            source: Box::new(source),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::NotRunning { .. } => Kind::NotRunning,
            Self::Invalid(_) | Self::Start(StartError::InvalidSpec(_)) => Kind::Invalid,
            Self::Start(StartError::NotExecutable { .. }) => Kind::NotExecutable,
            Self::Start(_) | Self::Internal { .. } => Kind::Internal,
        }
    }
}

impl From<&RequestError> for reply::Body {
    fn from(error: &RequestError) -> Self {
        Self::Failure(Failure {
            kind: error.kind().into(),
            message: Chain(error).to_string(),
        })
    }
}
