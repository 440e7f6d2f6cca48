//! Figures of one cgroup, read again and again.

use crate::error::chain;
use crisp_cgroup::{Cgroup, CgroupPath, Extent, Hierarchies, Stats};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// Two looks that are closer than this give no rate of their own: the last one is told again.
const RATE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What is kept of a cgroup from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Unset before the first look.
    cgroup: OnceLock<Cgroup>,
    last: Mutex<Option<Sample>>,
}

/// The cpu time that it had used at a look.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: SystemTime,
    usage_ns: u64,
    nano_cores: Option<u64>,
}

/// What one look has found.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) stats: Stats,
    /// Cpu time per second since the last look, in nanoseconds; none at the first.
    pub(crate) cpu_nano_cores: Option<u64>,
}

impl Gauge {
    /// Looks at the cgroup, always the same one. None while it goes. Blocks.
    pub(crate) fn read(
        &self,
        hierarchies: &Hierarchies,
        path: &str,
        extent: Extent,
    ) -> Option<Reading> {
        match self.cgroup(hierarchies, path)?.stats(extent) {
            Ok(stats) => Some(Reading {
                cpu_nano_cores: stats
                    .cpu
                    .and_then(|cpu| self.rate(stats.read_at, cpu.usage_ns)),
                stats,
            }),
            Err(error) => {
                tracing::debug!(cgroup = path, error = chain(&error), "no figures");
                None
            }
        }
    }

    fn cgroup(&self, hierarchies: &Hierarchies, path: &str) -> Option<&Cgroup> {
        if let Some(cgroup) = self.cgroup.get() {
            return Some(cgroup);
        }
        let path = CgroupPath::parse(path).ok()?;
        let open = || hierarchies.open(&path).remembering_files();
        Some(self.cgroup.get_or_init(open))
    }

    fn rate(&self, at: SystemTime, usage_ns: u64) -> Option<u64> {
        let mut sample = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *sample;
        let interval = last.and_then(|last| at.duration_since(last.at).ok());
        let nano_cores = match (last, interval) {
            (Some(last), Some(interval)) if interval < RATE_INTERVAL_MIN => return last.nano_cores,
            (Some(last), Some(interval)) => {
                Some(nano_cores(usage_ns.saturating_sub(last.usage_ns), interval))
            }
            _ => None,
        };
        *sample = Some(Sample {
            at,
            usage_ns,
            nano_cores,
        });
        nano_cores
    }
}

fn nano_cores(used_ns: u64, interval: Duration) -> u64 {
    let per_second = u128::from(used_ns) * 1_000_000_000 / interval.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_used_from_look_to_look() {
        let gauge = Gauge::default();
        let rate = |ms, usage_ns| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            gauge.rate(at, usage_ns)
        };
        assert_eq!(rate(0, 0), None);
        assert_eq!(rate(2000, 1_000_000_000), Some(500_000_000));
        assert_eq!(rate(2001, 2_000_000_000), Some(500_000_000));
        assert_eq!(rate(3000, 1_000_000_000), Some(0));
        // After the clock was set back, or a counter began anew, it takes two looks again.
        assert_eq!(rate(1000, 1_000_000_000), None);
        assert_eq!(rate(2000, 0), Some(0));
    }
}
