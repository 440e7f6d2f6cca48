//! What a death must not bring about.

use std::fmt;

/// Something that does not hold after a death.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Something that a client was told is not so any more, or is not there.
    Lost(String),
    /// Something is there that no record speaks of.
    Leaked(String),
    /// A request fails however often it is repeated, is not answered, or a state is never reached.
    Stuck(String),
}

impl Finding {
    /// By what an audit says.
    pub(crate) fn of_audit(error: &anyhow::Error) -> Self {
        let text = format!("{error:#}");
        match text.contains("missing ") {
            true => Self::Lost(text),
            false => Self::Leaked(text),
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lost",
            Self::Leaked(_) => "leaked",
            Self::Stuck(_) => "stuck",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Lost(what) | Self::Leaked(what) | Self::Stuck(what)) = self;
        write!(f, "{}: {what}", self.word())
    }
}

/// What a node does not answer, or answers otherwise than it should.
pub(crate) fn stuck(error: impl fmt::Display) -> Finding {
    Finding::Stuck(error.to_string())
}
