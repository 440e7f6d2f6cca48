//! Where the files of one pod's shim are.

use std::path::{Path, PathBuf};

/// The longest id that names a file.
const MAX_ID_BYTES: usize = 128;

/// The runtime directory of a pod, mode 0700, which the daemon makes and removes.
///
/// ```text
/// shim.sock   the listening socket of the shim
/// shim.pid    which process the shim is
/// shim.log    what the shim has to say, bounded by it
/// exits/      exit records, one for each container that has ended
/// oci/        what a runtime with a command line knows of its containers
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPaths {
    runtime_dir: PathBuf,
}

impl PodPaths {
    /// The paths below `runtime_dir`.
    #[must_use]
    pub fn new(runtime_dir: impl Into<PathBuf>) -> Self {
        Self {
            runtime_dir: runtime_dir.into(),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// The listening socket. Its path may be longer than a socket's address can hold: use
    /// [`crate::connect`].
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join(SOCKET_NAME)
    }

    /// The directory of the exit records.
    #[must_use]
    pub fn exits(&self) -> PathBuf {
        self.runtime_dir.join("exits")
    }

    /// Where a runtime that is driven by its command line keeps its state.
    #[must_use]
    pub fn oci_state(&self) -> PathBuf {
        self.runtime_dir.join("oci")
    }

    /// The file that says which process the shim is.
    #[must_use]
    pub fn shim_pid(&self) -> PathBuf {
        self.runtime_dir.join("shim.pid")
    }

    /// The shim's own log.
    #[must_use]
    pub fn shim_log(&self) -> PathBuf {
        self.runtime_dir.join("shim.log")
    }
}

/// The name of the listening socket in the runtime directory.
pub(crate) const SOCKET_NAME: &str = "shim.sock";

/// Whether `id` may name a container or an exec'd process, and so a file: letters, digits, `-` and
/// `_`, at most 128.
#[must_use]
pub fn is_valid_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_directory() {
        assert!(is_valid_id("0123abcDEF-_"));
        for bad in ["", ".", "..", "a/b", "a.b", "a\0", "ä", &"a".repeat(129)] {
            assert!(!is_valid_id(bad), "{bad:?}");
        }
    }
}
