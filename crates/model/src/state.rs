//! The states of pods and containers, and what moves them.

use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// Where a pod is.
///
/// ```text
///  Starting ──▶ Ready ──▶ NotReady
///      └───────────────────▲
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// Its record is written; its parts are being made.
    Starting,
    /// Its namespaces exist and its network works.
    Ready,
    /// Stopped, or its pause process or shim ended.
    NotReady,
}

impl PodState {
    pub const ALL: [Self; 3] = [Self::Starting, Self::Ready, Self::NotReady];

    /// The state in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
        }
    }
}

/// Where a container is.
///
/// ```text
///            Started            Ended
///  Created ──────────▶ Running ───────▶ Exited
///     │                   │               ▲
///     │ StartFailed       │ Lost          │
///     └───────────────────┼───────────────┘
///                         ▼
///                      Exited(Unknown)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running(Running),
    Exited(Exited),
}

/// Facts of a container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Of its first process, in the host's pid namespace.
    pub pid: u32,
    pub started_at: SystemTime,
}

/// Facts of a container that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// None: it never ran.
    pub started_at: Option<SystemTime>,
    pub finished_at: SystemTime,
    pub reason: ExitReason,
    /// For a person.
    pub message: String,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Its first process exited with this code.
    Code(i32),
    /// A signal ended its first process.
    Signal(i32),
    /// The kernel's OOM killer was at work in it; its first process exited with this code.
    OomKilled(i32),
    /// It could not be started.
    StartError,
    /// Nobody saw it end: its shim was killed, or the host was restarted.
    Unknown,
}

impl ExitReason {
    /// The code that clients are told: 128 plus the signal's number, 128 for what never started and
    /// 255 where nobody knows, as containerd does.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Code(code) | Self::OomKilled(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::StartError => 128,
            Self::Unknown => 255,
        }
    }

    /// The word of CRI `ContainerStatus.reason`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Code(0) => "Completed",
            Self::Code(_) | Self::Signal(_) => "Error",
            Self::OomKilled(_) => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEvent {
    Started(Running),
    StartFailed {
        at: SystemTime,
        message: String,
    },
    Ended {
        at: SystemTime,
        reason: ExitReason,
    },
    /// It is gone and nobody saw how.
    Lost {
        at: SystemTime,
        message: String,
    },
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {state} cannot be {event}")]
pub struct IllegalTransition {
    pub state: &'static str,
    pub event: &'static str,
}

impl ContainerState {
    /// The state after `event`.
    ///
    /// # Errors
    /// If the event cannot happen in this state; an ended container stays as it ended.
    pub fn apply(&self, event: ContainerEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Created, ContainerEvent::Started(running)) => Ok(Self::Running(running)),
            (Self::Created, ContainerEvent::StartFailed { at, message }) => {
                Ok(exited(None, at, ExitReason::StartError, message))
            }
            (Self::Running(running), ContainerEvent::Ended { at, reason }) => {
                Ok(exited(Some(running.started_at), at, reason, String::new()))
            }
            (Self::Running(running), ContainerEvent::Lost { at, message }) => Ok(exited(
                Some(running.started_at),
                at,
                ExitReason::Unknown,
                message,
            )),
            (Self::Created, ContainerEvent::Lost { at, message }) => {
                Ok(exited(None, at, ExitReason::Unknown, message))
            }
            (state, event) => Err(IllegalTransition {
                state: state.word(),
                event: event.word(),
            }),
        }
    }

    /// What [`ContainerState::word`] can give.
    pub const WORDS: [&str; 3] = ["created", "running", "exited"];

    /// The state in one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running(_) => "running",
            Self::Exited(_) => "exited",
        }
    }

    /// The pid of the first process while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running(running) => Some(running.pid),
            _ => None,
        }
    }
}

impl ContainerEvent {
    fn word(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::StartFailed { .. } => "failed to start",
            Self::Ended { .. } => "ended",
            Self::Lost { .. } => "lost",
        }
    }
}

fn exited(
    started_at: Option<SystemTime>,
    finished_at: SystemTime,
    reason: ExitReason,
    message: String,
) -> ContainerState {
    ContainerState::Exited(Exited {
        started_at,
        // Nothing ends before it began, whatever was done to the clock meanwhile.
        finished_at: started_at.map_or(finished_at, |started| finished_at.max(started)),
        reason,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: SystemTime = SystemTime::UNIX_EPOCH;

    fn states() -> [ContainerState; 3] {
        [
            ContainerState::Created,
            ContainerState::Running(Running {
                pid: 7,
                started_at: T,
            }),
            exited(None, T, ExitReason::Code(3), String::new()),
        ]
    }

    fn events() -> [ContainerEvent; 4] {
        [
            ContainerEvent::Started(Running {
                pid: 8,
                started_at: T,
            }),
            ContainerEvent::StartFailed {
                at: T,
                message: "no".into(),
            },
            ContainerEvent::Ended {
                at: T,
                reason: ExitReason::Signal(9),
            },
            ContainerEvent::Lost {
                at: T,
                message: "gone".into(),
            },
        ]
    }

    #[test]
    fn every_transition_is_as_the_table_says() {
        let table = [
            [Some("running"), Some("exited"), None, Some("exited")],
            [None, None, Some("exited"), Some("exited")],
            [None, None, None, None],
        ];
        for (state, row) in states().iter().zip(table) {
            for (event, expected) in events().into_iter().zip(row) {
                let next = state.apply(event.clone()).ok();
                let word = next.as_ref().map(ContainerState::word);
                assert_eq!(word, expected, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn an_end_is_not_before_its_start_when_the_clock_was_set_back() {
        let later = T + std::time::Duration::from_secs(60);
        let running = ContainerState::Running(Running {
            pid: 7,
            started_at: later,
        });
        let ended = running.apply(ContainerEvent::Ended {
            at: T,
            reason: ExitReason::Code(0),
        });
        let Ok(ContainerState::Exited(ended)) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!((ended.started_at, ended.finished_at), (Some(later), later));
    }

    #[test]
    fn exit_codes_and_words_are_those_that_clients_know() {
        for (reason, code, word) in [
            (ExitReason::Code(0), 0, "Completed"),
            (ExitReason::Code(2), 2, "Error"),
            (ExitReason::Signal(15), 143, "Error"),
            (ExitReason::OomKilled(137), 137, "OOMKilled"),
            (ExitReason::StartError, 128, "StartError"),
            (ExitReason::Unknown, 255, "Unknown"),
        ] {
            assert_eq!((reason.exit_code(), reason.word()), (code, word));
        }
    }
}
