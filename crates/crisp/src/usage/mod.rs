//! What a pod or container used between two looks at it, and what holds it back.
//!
//! Rates and shares are of the time between the looks, so that they tell what is so now: sums since the
//! cgroup was made say little about a pod that has run for a week.

mod pod;
mod reasons;

pub(crate) use pod::{PodLook, PodUsage, WINDOW, ask, parse};
use reasons::{Life, reasons};
pub(crate) use reasons::{Reason, percent};

use crate::facts::{Cgroup, Pressures, Stall};
use crate::tasks::{Tasks, Zombies};
use crisp_cgroup::shares_of_weight;
use std::time::Instant;

/// The weight of one whole cpu, as the kubelet counts.
const SHARES_PER_CPU: u64 = 1024;

/// The smallest weight, which is that of a container without a request.
const SHARES_MIN: u64 = 2;

/// One look at the cgroup of a pod or container.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    pub(crate) cgroup: Cgroup,
    pub(crate) tasks: Tasks,
}

impl Look {
    /// Looks at the tasks of a cgroup whose other figures the daemon has just told.
    fn at(cgroup: Cgroup, zombies: &Zombies) -> Self {
        Self {
            at: Instant::now(),
            tasks: Tasks::of(&cgroup.directories, zombies),
            cgroup,
        }
    }
}

/// What was used between two looks, and what there is at the second. None: not counted, or no limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processors that were busy.
    pub(crate) cpus: Option<f64>,
    /// What the weight promises, in processors.
    pub(crate) cpus_requested: Option<f64>,
    pub(crate) cpus_limit: Option<f64>,
    /// Of the periods of the quota, 0 to 1.
    pub(crate) throttled: Option<f64>,
    /// Memory without page cache that can go.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    /// Since the cgroup was made.
    pub(crate) oom_kills: u64,
    /// Shares of the time in which some process waited, 0 to 1.
    pub(crate) waited: Option<Waited>,
    pub(crate) pids: Option<u64>,
    pub(crate) pids_max: Option<u64>,
    /// Since the cgroup was made.
    pub(crate) refused_forks: u64,
    pub(crate) tasks: Tasks,
}

/// Shares of the time in which some process waited for a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Waited {
    pub(crate) cpu: f64,
    pub(crate) memory: f64,
    pub(crate) io: f64,
}

impl Usage {
    /// Of the time between two looks. `shares` is the weight that the client asked for, if that is known:
    /// version 2 keeps it in another form, from which it can be told only about.
    pub(crate) fn between(before: &Look, after: &Look, shares: Option<u64>) -> Self {
        let limits = &after.cgroup.limits;
        let (first, last) = (&before.cgroup.stats, &after.cgroup.stats);
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let cpu = first.cpu.zip(last.cpu);
        let weighed = || limits.cpu_weight.map(shares_of_weight);
        Self {
            cpus: cpu.map(|(a, b)| ratio(grown(a.usage_ns, b.usage_ns) / 1e9, seconds)),
            cpus_requested: requested(limits.cpu_shares.or(shares).or_else(weighed)),
            cpus_limit: limits
                .cpu_quota_us
                .zip(limits.cpu_period_us)
                .map(|(quota, period)| ratio(float(quota), float(period))),
            throttled: cpu.filter(|_| limits.cpu_quota_us.is_some()).map(|(a, b)| {
                let periods = grown(a.periods, b.periods);
                ratio(grown(a.throttled_periods, b.throttled_periods), periods)
            }),
            memory_bytes: last.memory.map(|memory| memory.working_set_bytes),
            memory_limit_bytes: limits.memory_limit_bytes,
            oom_kills: last.memory.map_or(0, |memory| memory.oom_kills),
            waited: first
                .pressure
                .zip(last.pressure)
                .map(|(a, b)| Waited::between(&a, &b, seconds)),
            pids: last.pids.map(|pids| pids.current),
            pids_max: limits.pids_max,
            refused_forks: last.pids.and_then(|pids| pids.refused_forks).unwrap_or(0),
            tasks: after.tasks.clone(),
        }
    }
}

impl Waited {
    fn between(before: &Pressures, after: &Pressures, seconds: f64) -> Self {
        let share = |of: fn(&Pressures) -> Stall| {
            let waited = grown(of(before).total_us, of(after).total_us) / 1e6;
            ratio(waited, seconds).min(1.0)
        };
        Self {
            cpu: share(|pressures| pressures.cpu.some),
            memory: share(|pressures| pressures.memory.some),
            io: share(|pressures| pressures.io.some),
        }
    }
}

fn requested(shares: Option<u64>) -> Option<f64> {
    let shares = shares.filter(|shares| *shares > SHARES_MIN)?;
    Some(float(shares) / float(SHARES_PER_CPU))
}

/// By how much a counter has grown; one that began anew has not.
fn grown(before: u64, after: u64) -> f64 {
    float(after.saturating_sub(before))
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "figures to be shown")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn look(at: Instant, cgroup: Value) -> Look {
        Look {
            at,
            cgroup: serde_json::from_value(cgroup).unwrap(),
            tasks: Tasks::default(),
        }
    }

    fn stalled(total_us: u64) -> Value {
        let some = json!({"some": {"avg10": 0.0, "total_us": total_us}});
        json!({"cpu": some, "memory": some, "io": some})
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let now = Instant::now();
        let stats = |usage_ns: u64, periods: u64, throttled: u64, stalled_us: u64| {
            json!({
                "limits": {"cpu_quota_us": 50_000, "cpu_period_us": 100_000, "memory_limit_bytes": 2048, "pids_max": 9},
                "stats": {
                    "cpu": {"usage_ns": usage_ns, "periods": periods, "throttled_periods": throttled, "throttled_ns": 0},
                    "memory": {"usage_bytes": 2000, "working_set_bytes": 1024, "oom_kills": 1},
                    "pids": {"current": 3, "refused_forks": 5},
                    "pressure": stalled(stalled_us),
                },
            })
        };
        let before = look(now, stats(1_000_000_000, 100, 90, 0));
        let after = look(
            now + Duration::from_secs(2),
            stats(2_000_000_000, 120, 95, 500_000),
        );
        let waited = Waited {
            cpu: 0.25,
            memory: 0.25,
            io: 0.25,
        };
        assert_eq!(
            Usage::between(&before, &after, Some(512)),
            Usage {
                cpus: Some(0.5),
                cpus_requested: Some(0.5),
                cpus_limit: Some(0.5),
                throttled: Some(0.25),
                memory_bytes: Some(1024),
                memory_limit_bytes: Some(2048),
                oom_kills: 1,
                waited: Some(waited),
                pids: Some(3),
                pids_max: Some(9),
                refused_forks: 5,
                tasks: Tasks::default(),
            }
        );
    }

    #[test]
    fn a_weight_of_version_2_promises_processors_too() {
        let promised = |weight: u64, shares| {
            let look = look(Instant::now(), json!({"limits": {"cpu_weight": weight}}));
            Usage::between(&look, &look, shares).cpus_requested
        };
        assert_eq!(promised(100, None), Some(1.0));
        assert_eq!(promised(59, Some(512)), Some(0.5));
        assert_eq!(promised(1, None), None);
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let look = look(Instant::now(), json!({"path": "/x"}));
        let usage = Usage::between(&look, &look, Some(SHARES_MIN));
        assert_eq!(usage, Usage::default());
    }
}
