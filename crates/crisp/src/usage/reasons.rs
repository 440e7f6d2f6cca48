//! What holds a pod or container back, told in words. Pure.

use super::Usage;
use crate::text::{age, bytes, count};
use crisp_model::{ContainerState, ExitReason};
use std::fmt;
use std::time::{Duration, SystemTime};

/// Of the periods of a quota: fewer are bursts that nobody notices.
const THROTTLED_MIN: f64 = 0.05;

/// Of the time in which some process waited.
const WAITED_MIN: f64 = 0.10;

/// Of a memory limit.
const MEMORY_NEAR: f64 = 0.90;

/// A few that have just ended are no news.
const ZOMBIES_MIN: usize = 5;

/// Functions of the kernel, by their beginnings, and what who waits in them waits for.
const PLACES: [(&str, &str); 12] = [
    ("nfs", "an NFS server does not answer"),
    ("rpc_", "an NFS server does not answer"),
    ("fuse_", "a FUSE file system does not answer"),
    ("request_wait_answer", "a FUSE file system does not answer"),
    ("cifs_", "an SMB server does not answer"),
    ("io_schedule", "a disk is slow"),
    ("folio_wait", "a disk is slow"),
    ("jbd2_", "a disk is slow"),
    ("blk_", "a disk is slow"),
    ("mem_cgroup_handle_over_high", "its memory is reclaimed"),
    (
        "kernel_clone",
        "a child of vfork has not executed anything yet",
    ),
    (
        "wait_for_vfork",
        "a child of vfork has not executed anything yet",
    ),
];

/// What is known of a container beside its usage.
#[derive(Debug, Clone)]
pub(crate) struct Life<'a> {
    pub(crate) state: &'a ContainerState,
    /// How often it was made again.
    pub(crate) restarts: u32,
    pub(crate) now: SystemTime,
}

/// One thing that holds a pod or container back. Shares are 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reason {
    /// It ended and was started again more than once; its client waits longer each time.
    CrashLoop {
        restarts: u32,
        ended: Ended,
    },
    StartFailed(String),
    OomKills(u64),
    MemoryNear {
        used: u64,
        limit: u64,
    },
    MemoryWait(f64),
    Throttled {
        share: f64,
        cpus_limit: f64,
    },
    CpuWait(f64),
    IoWait(f64),
    PidsFull {
        pids: u64,
        max: u64,
    },
    /// There is room now; there was none.
    RefusedForks(u64),
    /// Threads in D state, and the kernel's function that they wait in.
    Blocked {
        threads: usize,
        place: String,
    },
    Zombies(usize),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    ago: Duration,
    reason: ExitReason,
}

/// What holds back whoever has this usage; `life` is that of a container. The worst comes first.
pub(crate) fn reasons(usage: &Usage, life: Option<&Life<'_>>) -> Vec<Reason> {
    let of_life = life.and_then(of_life);
    let parts = [
        of_memory(usage),
        of_cpu(usage),
        of_pids(usage),
        of_tasks(usage),
    ];
    of_life
        .into_iter()
        .chain(parts.into_iter().flatten())
        .collect()
}

fn of_life(life: &Life<'_>) -> Option<Reason> {
    let ContainerState::Exited(exited) = life.state else {
        return None;
    };
    match exited.reason {
        ExitReason::StartError => Some(Reason::StartFailed(exited.message.clone())),
        reason if reason.exit_code() != 0 && life.restarts > 0 => Some(Reason::CrashLoop {
            restarts: life.restarts,
            ended: Ended {
                ago: life
                    .now
                    .duration_since(exited.finished_at)
                    .unwrap_or_default(),
                reason,
            },
        }),
        _ => None,
    }
}

fn of_memory(usage: &Usage) -> Vec<Reason> {
    let kills = (usage.oom_kills > 0).then_some(Reason::OomKills(usage.oom_kills));
    let both = usage.memory_bytes.zip(usage.memory_limit_bytes);
    let near =
        both.filter(|(used, limit)| super::float(*used) >= MEMORY_NEAR * super::float(*limit));
    let near = near.map(|(used, limit)| Reason::MemoryNear { used, limit });
    let waited = usage.waited.map(|waited| waited.memory);
    let waited = waited
        .filter(|share| *share >= WAITED_MIN)
        .map(Reason::MemoryWait);
    [kills, near, waited].into_iter().flatten().collect()
}

/// Processes that the quota holds back wait for a processor as well: that is told once.
fn of_cpu(usage: &Usage) -> Vec<Reason> {
    let throttled = usage.throttled.zip(usage.cpus_limit);
    let throttled = throttled.filter(|(share, _)| *share >= THROTTLED_MIN);
    let reason = match (throttled, usage.waited) {
        (Some((share, cpus_limit)), _) => Some(Reason::Throttled { share, cpus_limit }),
        (None, Some(waited)) if waited.cpu >= WAITED_MIN => Some(Reason::CpuWait(waited.cpu)),
        _ => None,
    };
    reason.into_iter().collect()
}

fn of_pids(usage: &Usage) -> Vec<Reason> {
    let reason = match usage.pids.zip(usage.pids_max) {
        Some((pids, max)) if pids >= max => Some(Reason::PidsFull { pids, max }),
        _ if usage.refused_forks > 0 => Some(Reason::RefusedForks(usage.refused_forks)),
        _ => None,
    };
    reason.into_iter().collect()
}

fn of_tasks(usage: &Usage) -> Vec<Reason> {
    let io = usage.waited.map(|waited| waited.io);
    let io = io.filter(|share| *share >= WAITED_MIN).map(Reason::IoWait);
    let blocked = usage
        .tasks
        .blocked
        .iter()
        .map(|(place, threads)| Reason::Blocked {
            threads: *threads,
            place: place.clone(),
        });
    let zombies = Some(usage.tasks.zombies).filter(|number| *number >= ZOMBIES_MIN);
    io.into_iter()
        .chain(blocked)
        .chain(zombies.map(Reason::Zombies))
        .collect()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrashLoop { restarts, ended } => {
                let (ago, code) = (age(ended.ago), ended.reason.exit_code());
                let word = ended.reason.word();
                write!(
                    f,
                    "{}: it ended {ago} ago with code {code} ({word}) and waits to be started again",
                    times(*restarts)
                )
            }
            Self::StartFailed(message) => write!(f, "it could not be started: {message}"),
            Self::OomKills(kills) => write!(
                f,
                "memory ran out: {} by the OOM killer",
                kills_text(*kills)
            ),
            Self::MemoryNear { used, limit } => {
                write!(
                    f,
                    "memory {} of {}: near its limit",
                    bytes(*used),
                    bytes(*limit)
                )
            }
            Self::MemoryWait(share) => {
                write!(f, "waits for memory {} of the time", percent(*share))
            }
            Self::Throttled { share, cpus_limit } => {
                write!(
                    f,
                    "throttled {} of periods: quota {} cpu",
                    percent(*share),
                    cpus(*cpus_limit)
                )
            }
            Self::CpuWait(share) => {
                write!(
                    f,
                    "waits for a processor {} of the time: others have them",
                    percent(*share)
                )
            }
            Self::IoWait(share) => write!(f, "waits for disks {} of the time", percent(*share)),
            Self::PidsFull { pids, max } => write!(f, "pids {pids}/{max}: fork fails"),
            Self::RefusedForks(forks) => {
                write!(f, "fork failed {forks} times at the limit of pids")
            }
            Self::Blocked { threads, place } => blocked(f, *threads, place),
            Self::Zombies(number) => {
                write!(
                    f,
                    "{number} zombies: processes that ended and that nobody waits for"
                )
            }
        }
    }
}

impl Reason {
    /// Whether it comes of a limit, of which a pod can have one of its own: all else in a pod is that of
    /// its containers.
    pub(super) fn is_of_a_limit(&self) -> bool {
        match self {
            Self::OomKills(_)
            | Self::MemoryNear { .. }
            | Self::Throttled { .. }
            | Self::PidsFull { .. }
            | Self::RefusedForks(_) => true,
            Self::CrashLoop { .. }
            | Self::StartFailed(_)
            | Self::MemoryWait(_)
            | Self::CpuWait(_)
            | Self::IoWait(_)
            | Self::Blocked { .. }
            | Self::Zombies(_) => false,
        }
    }
}

fn blocked(f: &mut fmt::Formatter<'_>, threads: usize, place: &str) -> fmt::Result {
    write!(f, "{} in D state", count(threads, "task"))?;
    if place.is_empty() {
        return Ok(());
    }
    write!(f, " in {place}")?;
    match PLACES.iter().find(|(start, _)| place.starts_with(start)) {
        Some((_, why)) => write!(f, ": {why}"),
        None => Ok(()),
    }
}

fn times(restarts: u32) -> String {
    match restarts {
        1 => "restarted once".to_owned(),
        number => format!("restarted {number} times"),
    }
}

fn kills_text(kills: u64) -> String {
    match kills {
        1 => "1 process was killed".to_owned(),
        number => format!("{number} processes were killed"),
    }
}

/// `43 %`
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// With as many decimals as it needs, at most three.
pub(crate) fn cpus(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Waited;
    use super::*;
    use crate::tasks::Tasks;
    use crisp_model::Exited;

    fn told(usage: &Usage, life: Option<&Life<'_>>) -> Vec<String> {
        reasons(usage, life).iter().map(Reason::to_string).collect()
    }

    fn blocked_in(places: &[(&str, usize)]) -> Usage {
        let places = places.iter().map(|(place, n)| ((*place).to_owned(), *n));
        Usage {
            tasks: Tasks {
                blocked: places.collect(),
                ..Tasks::default()
            },
            ..Usage::default()
        }
    }

    #[test]
    fn each_condition_is_told_in_words() {
        let cases: [(Usage, &[&str]); 12] = [
            (Usage::default(), &[]),
            (
                Usage {
                    throttled: Some(0.43),
                    cpus_limit: Some(0.5),
                    ..Usage::default()
                },
                &["throttled 43 % of periods: quota 0.5 cpu"],
            ),
            (
                Usage {
                    throttled: Some(0.02),
                    cpus_limit: Some(0.5),
                    ..Usage::default()
                },
                &[],
            ),
            (
                Usage {
                    throttled: Some(0.5),
                    cpus_limit: Some(1.0),
                    waited: Some(Waited {
                        cpu: 0.6,
                        ..Waited::default()
                    }),
                    ..Usage::default()
                },
                &["throttled 50 % of periods: quota 1 cpu"],
            ),
            (
                Usage {
                    waited: Some(Waited {
                        cpu: 0.6,
                        memory: 0.2,
                        io: 0.3,
                    }),
                    ..Usage::default()
                },
                &[
                    "waits for memory 20 % of the time",
                    "waits for a processor 60 % of the time: others have them",
                    "waits for disks 30 % of the time",
                ],
            ),
            (
                Usage {
                    memory_bytes: Some(61 << 20),
                    memory_limit_bytes: Some(64 << 20),
                    oom_kills: 2,
                    ..Usage::default()
                },
                &[
                    "memory ran out: 2 processes were killed by the OOM killer",
                    "memory 61 MiB of 64 MiB: near its limit",
                ],
            ),
            (
                Usage {
                    memory_bytes: Some(32 << 20),
                    memory_limit_bytes: Some(64 << 20),
                    ..Usage::default()
                },
                &[],
            ),
            (
                Usage {
                    pids: Some(1024),
                    pids_max: Some(1024),
                    refused_forks: 3,
                    ..Usage::default()
                },
                &["pids 1024/1024: fork fails"],
            ),
            (
                Usage {
                    pids: Some(3),
                    pids_max: Some(1024),
                    refused_forks: 3,
                    ..Usage::default()
                },
                &["fork failed 3 times at the limit of pids"],
            ),
            (
                blocked_in(&[("nfs4_wait_clnt_recover", 3), ("", 1)]),
                &[
                    "1 task in D state",
                    "3 tasks in D state in nfs4_wait_clnt_recover: an NFS server does not answer",
                ],
            ),
            (
                blocked_in(&[("some_function", 1)]),
                &["1 task in D state in some_function"],
            ),
            (
                Usage {
                    tasks: Tasks {
                        zombies: 7,
                        ..Tasks::default()
                    },
                    ..Usage::default()
                },
                &["7 zombies: processes that ended and that nobody waits for"],
            ),
        ];
        for (usage, expected) in cases {
            assert_eq!(told(&usage, None), expected, "{usage:?}");
        }
    }

    #[test]
    fn how_a_container_ended_is_told_when_it_matters() {
        let now = SystemTime::now();
        let ended = |reason, message: &str| {
            ContainerState::Exited(Exited {
                started_at: None,
                finished_at: now - Duration::from_secs(12),
                reason,
                message: message.to_owned(),
            })
        };
        let cases = [
            (
                ended(ExitReason::Code(1), ""),
                4,
                &[
                    "restarted 4 times: it ended 12s ago with code 1 (Error) and waits to be started again",
                ][..],
            ),
            (ended(ExitReason::Code(1), ""), 0, &[]),
            (ended(ExitReason::Code(0), ""), 4, &[]),
            (
                ended(ExitReason::StartError, "no /x"),
                0,
                &["it could not be started: no /x"],
            ),
            (ContainerState::Created, 3, &[]),
        ];
        for (state, restarts, expected) in cases {
            let life = Life {
                state: &state,
                restarts,
                now,
            };
            assert_eq!(told(&Usage::default(), Some(&life)), expected);
        }
    }
}
