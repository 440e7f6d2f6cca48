//! Why there is no dump, told by what the caller does next.

use std::io;
use std::path::PathBuf;

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error("{} is not installed", program.display())]
    NotInstalled { program: PathBuf },
    /// The processes have TCP connections, and were to have none.
    #[error("the processes have TCP connections")]
    Connected,
    /// It cannot dump these processes; they go on. The reason is what it logged last.
    #[error("{} failed: {reason}", program.display())]
    Failed { program: PathBuf, reason: String },
    /// The processes go on, unless they were lost with a program that hung.
    #[error("{} did not end in time", program.display())]
    TimedOut { program: PathBuf },
    /// It cannot be started, or talked to.
    #[error("cannot {op}")]
    Io {
        op: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            op,
            source: source.into(),
        }
    }
}
