//! What can go wrong with an image, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an image operation failed. Cloned to every caller that waited for the same pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such image, here or at its registry.
    #[error("image {name:?} not found")]
    NotFound { name: String },

    /// The name cannot be that of an image.
    #[error("invalid image reference {given:?}: {reason}")]
    InvalidReference { given: String, reason: &'static str },

    /// The beginning of an id fits several images: the caller has to give more of it.
    #[error("{prefix:?} begins the ids of several images")]
    Ambiguous { prefix: String },

    /// The registry wants other credentials than it got.
    #[error("{registry} denies access to {repository}: {reason}")]
    Unauthorized {
        registry: String,
        repository: String,
        reason: String,
    },

    /// The registry could not be reached, stalled or failed: trying again later may help.
    #[error("{registry} is unavailable: {reason}")]
    RegistryUnavailable { registry: String, reason: String },

    /// Content is not what its digest, size or format says.
    #[error("{what} is corrupt: {reason}")]
    Corrupt { what: String, reason: String },

    /// Content is hostile, over a bound, or of a kind that is not supported.
    #[error("{what} is refused: {reason}")]
    Refused { what: String, reason: String },

    /// An administrator's program does not allow the image to be used.
    #[error("{reference} is not allowed by {}: {reason}", verifier.display())]
    NotVerified {
        reference: String,
        verifier: PathBuf,
        reason: String,
    },

    /// The file system is full.
    #[error("no space left in {}", path.display())]
    NoSpace { path: PathBuf },

    /// A file or directory that an administrator configured cannot be used.
    #[error("{}: {reason}", path.display())]
    InvalidConfig { path: PathBuf, reason: String },

    /// What a container writes is to be limited, and the file system that takes it cannot.
    #[error(
        "{} cannot be limited: its file system is no ext4 or xfs with quotas of projects in force (mount option prjquota)",
        path.display()
    )]
    NoQuotas { path: PathBuf },

    /// The container already has a snapshot, of another image.
    #[error("container {container} has a snapshot of image {image}")]
    SnapshotExists { container: String, image: String },

    /// Another image has the name.
    #[error("image {image} is called {name}")]
    NameTaken { name: String, image: String },

    /// There is nothing in the image at this path that could be mounted.
    #[error("image {image} has no file or directory {path:?}")]
    NoSuchPath { image: String, path: String },

    /// The kernel refused an operation.
    #[error("cannot {op} {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

impl Error {
    /// The kind of the error, in a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoSuchPath { .. } => "not_found",
            Self::InvalidReference { .. } | Self::Ambiguous { .. } => "invalid_reference",
            Self::Unauthorized { .. } => "unauthorized",
            Self::RegistryUnavailable { .. } => "registry_unavailable",
            Self::Corrupt { .. } => "corrupt",
            Self::Refused { .. } => "refused",
            Self::NotVerified { .. } => "not_verified",
            Self::NoSpace { .. } => "no_space",
            Self::InvalidConfig { .. } => "invalid_config",
            Self::NoQuotas { .. } => "no_quotas",
            Self::SnapshotExists { .. } => "snapshot_exists",
            Self::NameTaken { .. } => "name_taken",
            Self::Io { .. } => "io",
        }
    }

    /// A failed system call; a full file system or quota becomes [`Error::NoSpace`].
    pub(crate) fn io(
        op: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.as_ref().to_owned(), source.into());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::Io {
                op,
                path,
                source: Arc::new(source),
            },
        }
    }

    pub(crate) fn not_found(name: impl Into<String>) -> Self {
        Self::NotFound { name: name.into() }
    }

    pub(crate) fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// Whether the same pull may succeed a moment later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::RegistryUnavailable { .. })
    }
}

/// An error's text with those of its causes, each of them once.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
