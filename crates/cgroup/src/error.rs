//! What can go wrong, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_sys::bpf::FilterError;

/// An error of this crate. A refusal of the kernel names the file, the value and, as far as it can be
/// told, the reason in words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no control groups: nothing can be run on it.
    #[error("no control group file system is mounted (expected at /sys/fs/cgroup)")]
    NoCgroups,
    /// The caller's path cannot be that of a cgroup.
    #[error("{path:?} is not a cgroup's path: {reason}")]
    InvalidPath {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The caller's limit makes no sense on any host.
    #[error("{setting}: {value} {reason}")]
    InvalidLimit {
        /// The field of the OCI runtime specification.
        setting: String,
        /// As it was given.
        value: String,
        /// Continues the sentence that starts with the value.
        reason: String,
    },
    /// The limit makes sense, but this host, or this crate, cannot enforce it.
    #[error("{setting} cannot be enforced: {reason}")]
    Unsupported {
        /// The field of the OCI runtime specification.
        setting: String,
        /// What is lacking.
        reason: String,
    },
    /// The kernel refused a value.
    #[error("{}: {value} {reason}", file.display())]
    Refused {
        /// The file that was written.
        file: PathBuf,
        /// What was written.
        value: String,
        /// Continues the sentence that starts with the value.
        reason: String,
        /// What the kernel returned.
        source: io::Error,
    },
    /// The device filter could not be put in place (cgroup v2).
    #[error("the devices of {} cannot be limited", dir.display())]
    DeviceFilter {
        /// The cgroup's directory.
        dir: PathBuf,
        /// Which step failed.
        source: FilterError,
    },
    /// The cgroup does not exist, or no longer.
    #[error("cgroup {} does not exist", path.display())]
    NotFound {
        /// Its directory.
        path: PathBuf,
    },
    /// The cgroup did not get into the state that was asked for in time; asking again may succeed.
    #[error("cgroup {} is still {state} after {bound:?}", path.display())]
    Busy {
        /// Its directory.
        path: PathBuf,
        /// What it still is: `in use`, `not frozen` …
        state: &'static str,
        /// How long it was waited for.
        bound: Duration,
    },
    /// A file or directory could not be used.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// A verb.
        op: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the kernel returned.
        source: io::Error,
    },
    /// A kernel file does not have the form that its documentation gives.
    #[error("{} holds {text:?}, which is not understood", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The part that was not understood.
        text: String,
    },
}

impl Error {
    /// An [`Error::Io`].
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { op, path, source }
    }

    /// An [`Error::InvalidLimit`].
    pub(crate) fn invalid(setting: &str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::InvalidLimit {
            setting: setting.into(),
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Unsupported`].
    pub(crate) fn unsupported(setting: &str, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            setting: setting.into(),
            reason: reason.into(),
        }
    }
}
