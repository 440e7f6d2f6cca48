//! What can go wrong, by what the caller does next.

use crate::Verb;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a network cannot be used, or a namespace not be connected to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The administrator writes one.
    #[error("no CNI network is configured in {}", dir.display())]
    NoConfig { dir: PathBuf },
    /// The administrator corrects the file.
    #[error("{}: {reason}", path.display())]
    InvalidConfig { path: PathBuf, reason: String },
    /// The caller asks for something else.
    #[error("{what} {value:?} cannot be told to CNI plugins: {reason}")]
    InvalidRequest {
        what: &'static str,
        value: String,
        reason: &'static str,
    },
    /// The administrator installs it.
    #[error("CNI plugin {plugin:?} is not in {}", list(dirs))]
    NoPlugin { plugin: String, dirs: Vec<PathBuf> },
    /// The plugin said why it does not do it; [`Refusal::is_temporary`] tells whether a retry may help.
    #[error("CNI plugin {plugin:?} refused {verb}: {refusal}")]
    Refused {
        plugin: String,
        verb: Verb,
        refusal: Refusal,
    },
    /// The plugin failed, or answered with what cannot be used; a retry may help.
    #[error("CNI plugin {plugin:?} failed to {verb}: {reason}")]
    Failed {
        plugin: String,
        verb: Verb,
        reason: String,
    },
    /// The plugin could not be run, or had to be ended; a retry may help.
    #[error("CNI plugin {plugin:?} could not {verb}")]
    Helper {
        plugin: String,
        verb: Verb,
        source: crisp_helper::Error,
    },
    /// The plugins were ended before they had done it; a retry may help.
    #[error("{verb} by the plugins of CNI network {network:?} did not end within {after:?}")]
    TimedOut {
        network: String,
        verb: Verb,
        after: Duration,
    },
    /// The host refused.
    #[error("cannot {op} {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// What a plugin says when it does not do what it was asked (specification, section 5, "Error").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
    /// May be empty.
    pub details: String,
}

impl Refusal {
    /// "Try again later".
    const TRY_AGAIN: u32 = 11;
    /// "Plugin not available", with and without connectivity of what is connected; of STATUS only.
    const UNAVAILABLE: std::ops::RangeInclusive<u32> = 50..=51;

    /// Whether the plugin asks to be asked again.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.code == Self::TRY_AGAIN || Self::UNAVAILABLE.contains(&self.code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        write!(f, " (code {})", self.code)
    }
}

fn list(dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(", ")
}
