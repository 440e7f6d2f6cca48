//! What goes wrong, told by what the caller does next.

use crisp_model::spec::SpecError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The result of an engine's call.
pub type Result<T> = std::result::Result<T, Error>;

/// What a name or id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pod,
    Container,
    Image,
    Handler,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no {kind} {id:?} is known", kind = kind.word())]
    NotFound { kind: Kind, id: String },
    #[error("{kind} id {prefix:?} is ambiguous: it begins the ids of several", kind = kind.word())]
    Ambiguous { kind: Kind, prefix: String },
    #[error("{what} exists already: {id}")]
    AlreadyExists { what: String, id: String },
    /// The request itself is wrong.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    /// The request is right, but not in this state.
    #[error("{0}")]
    FailedPrecondition(String),
    /// See [`Error::late`].
    #[error("{what} did not end within {after_ms} ms")]
    DeadlineExceeded { what: String, after_ms: u64 },
    /// Addresses, ports or another bounded thing of the node are used up.
    #[error("{0}")]
    Exhausted(String),
    /// Asked for what crisp, or this host, does not offer.
    #[error("{0}")]
    Unsupported(String),
    /// The container's program cannot be executed; the text names its path.
    #[error("{0}")]
    NotExecutable(String),
    #[error("the image cannot be had")]
    Image(#[source] Arc<crisp_image::Error>),
    /// An image that is here cannot be mounted in a container.
    #[error("image volume at {container_path}")]
    ImageVolume {
        container_path: String,
        #[source]
        source: Arc<crisp_image::Error>,
    },
    #[error("the pod's network cannot be made")]
    Network(#[source] Arc<crisp_network::Error>),
    /// CNI plugins are who makes it.
    #[error("the pod's network cannot be made")]
    Cni(#[source] Arc<crisp_cni::Error>),
    #[error("a limit cannot be set")]
    Cgroup(#[source] Arc<crisp_cgroup::Error>),
    /// The pod's shim has no such container or process; the text says which.
    #[error("{0}")]
    UnknownToShim(String),
    /// The shim of the pod failed, or is gone.
    #[error("the pod's shim {0}")]
    Shim(String),
    #[error("{op} {path}", path = path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("{0}")]
    Internal(String),
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Image => "image",
            Self::Handler => "runtime handler",
        }
    }
}

impl Error {
    /// For what took longer than it may.
    pub(crate) fn late(what: impl Into<String>, after: Duration) -> Self {
        Self::DeadlineExceeded {
            what: what.into(),
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// For `map_err` on an operation on a path.
    pub(crate) fn io(
        op: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            op,
            path,
            source: Arc::new(source),
        }
    }
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        match error {
            SpecError::NoCommand => Self::invalid("command", error.to_string()),
            SpecError::Field { field, reason } => Self::invalid(field, reason),
            SpecError::Oci(source) => Self::Internal(format!("the OCI runtime spec: {source}")),
        }
    }
}

impl From<crisp_image::Error> for Error {
    fn from(error: crisp_image::Error) -> Self {
        Self::Image(Arc::new(error))
    }
}

impl From<crisp_cdi::Error> for Error {
    fn from(error: crisp_cdi::Error) -> Self {
        match error {
            crisp_cdi::Error::Unsupported { .. } => Self::Unsupported(error.to_string()),
            _ => Self::FailedPrecondition(error.to_string()),
        }
    }
}

impl From<crisp_network::Error> for Error {
    fn from(error: crisp_network::Error) -> Self {
        Self::Network(Arc::new(error))
    }
}

impl From<crisp_cni::Error> for Error {
    fn from(error: crisp_cni::Error) -> Self {
        match error {
            crisp_cni::Error::InvalidRequest { .. } => Self::invalid("config", error.to_string()),
            _ => Self::Cni(Arc::new(error)),
        }
    }
}

impl From<crisp_cgroup::Error> for Error {
    fn from(error: crisp_cgroup::Error) -> Self {
        Self::Cgroup(Arc::new(error))
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
