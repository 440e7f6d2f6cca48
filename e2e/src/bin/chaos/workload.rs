//! What containers do, and how they may end.

use crate::random::Random;
use crisp_e2e::sh;

/// Puts the number on stderr and, once it is on both streams, where [`TOLD`] finds it.
const TELL: &str = "echo $i >&2; echo $i > /dev/shm/$NAME; i=$((i+1));";

/// Prints the last number that a workload has written to its streams.
pub(crate) const TOLD: &str = "cat /dev/shm/$NAME";

#[derive(Debug, Clone)]
pub(crate) enum Workload {
    /// Counts until it is stopped, and repeats what it is told on its input. Once it has counted it answers
    /// SIGTERM by exiting with a code; none: it ignores it.
    Count { stopped: Option<i32> },
    /// Counts so far and exits with a code.
    Lines {
        count: u64,
        pause_ms: u64,
        code: i32,
    },
    /// As many lines that are longer than a log's line may be.
    Wide { count: u64, code: i32 },
    /// A signal ends it.
    Crash { signal: i32 },
    /// Takes more memory than it may have.
    Greedy,
    /// A program that its image does not have.
    Absent,
}

impl Workload {
    pub(crate) fn choose(random: &mut Random) -> Self {
        let code = i32::try_from(random.between(0, 100)).expect("less than 100");
        match random.between(0, 20) {
            0..7 => Self::Count { stopped: None },
            7..11 => Self::Count {
                stopped: Some(code),
            },
            11..13 => Self::Lines {
                count: random.between(20, 200),
                pause_ms: random.between(10, 50),
                code,
            },
            13..16 => Self::Lines {
                count: random.between(0, 1500),
                pause_ms: 0,
                code,
            },
            16 => Self::Wide {
                count: random.between(1, 20),
                code,
            },
            17 => Self::Crash {
                signal: *random.pick(&[6, 11, 15]),
            },
            18 => Self::Greedy,
            _ => Self::Absent,
        }
    }

    pub(crate) fn command(&self) -> Vec<String> {
        match self {
            Self::Count { stopped } => {
                let trap = match stopped {
                    Some(code) => format!("trap 'exit {code}' TERM"),
                    None => "trap '' TERM".to_owned(),
                };
                // A shell gives what runs behind it no input but by another descriptor.
                sh(&format!(
                    "{trap}; exec 3<&0; cat <&3 & i=0; while :; do echo $i; {TELL} sleep 0.1; done"
                ))
            }
            Self::Lines {
                count,
                pause_ms,
                code,
            } => {
                let pause = match pause_ms {
                    0 => String::new(),
                    pause_ms => format!("usleep {pause_ms}000;"),
                };
                sh(&format!(
                    "i=0; while [ $i -lt {count} ]; do echo $i; {TELL} {pause} done; exit {code}"
                ))
            }
            Self::Wide { count, code } => sh(&format!(
                "i=0; while [ $i -lt {count} ]; do printf '%d %040000d\\n' $i 0; {TELL} done; exit {code}"
            )),
            Self::Crash { signal } => sh(&format!("sh -c 'kill -{signal} $$'; exit $?")),
            // A line without an end, which it has to keep whole.
            Self::Greedy => sh("exec tail /dev/zero"),
            Self::Absent => vec!["/absent".to_owned()],
        }
    }

    /// Whether it reads its input.
    pub(crate) fn listens(&self) -> bool {
        matches!(self, Self::Count { .. })
    }

    /// The memory that it may have; none: as much as there is.
    pub(crate) fn memory_limit_bytes(&self) -> Option<i64> {
        matches!(self, Self::Greedy).then_some(16 << 20)
    }

    /// The code that it ends with by itself; none: it does not.
    pub(crate) fn end(&self) -> Option<i32> {
        match self {
            Self::Count { .. } | Self::Absent => None,
            Self::Lines { code, .. } | Self::Wide { code, .. } => Some(*code),
            Self::Crash { signal } => Some(128 + signal),
            Self::Greedy => Some(137),
        }
    }

    /// How many lines it has written to each stream when it has ended by itself.
    pub(crate) fn lines(&self) -> Option<u64> {
        match self {
            Self::Count { .. } => None,
            Self::Lines { count, .. } | Self::Wide { count, .. } => Some(*count),
            Self::Crash { .. } | Self::Greedy | Self::Absent => Some(0),
        }
    }
}
