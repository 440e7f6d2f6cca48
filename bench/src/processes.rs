//! What a runtime's processes cost, as the kernel counts it.

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

/// Every process's parent, at one moment.
#[derive(Debug)]
pub(crate) struct Tree {
    parents: HashMap<i32, i32>,
}

impl Tree {
    pub(crate) fn now() -> Result<Self> {
        let mut parents = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                // One that ends meanwhile is none.
                && let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
                && let Some(parent) = parent(&stat)
            {
                parents.insert(pid, parent);
            }
        }
        Ok(Self { parents })
    }

    /// The process and its parents.
    fn lineage(&self, pid: i32) -> impl Iterator<Item = i32> {
        std::iter::successors(Some(pid), |pid| self.parents.get(pid).copied())
    }

    /// The processes that a runtime has for pods beside its daemon: those of shims or monitors, which
    /// are the topmost parents of what runs in pods, and all below them but for containers.
    ///
    /// `held` are the first processes of pods and containers, `containers` of the latter only.
    pub(crate) fn overhead(&self, daemon: i32, held: &[i32], containers: &[i32]) -> Vec<i32> {
        let own = std::process::id().cast_signed();
        // A shim is the daemon's child, or was left to whoever adopts orphans here.
        let ends: HashSet<i32> = self.lineage(own).chain([0, 1, daemon]).collect();
        let top = |pid| {
            self.lineage(pid)
                .take_while(|pid| !ends.contains(pid))
                .last()
        };
        let tops: HashSet<i32> = held.iter().filter_map(|&pid| top(pid)).collect();
        let containers: HashSet<i32> = containers.iter().copied().collect();
        let below =
            |pid: i32, above: &HashSet<i32>| self.lineage(pid).any(|pid| above.contains(&pid));
        let pids = self.parents.keys().copied();
        pids.filter(|&pid| below(pid, &tops) && !below(pid, &containers))
            .collect()
    }
}

/// The fourth field of proc_pid_stat(5); the second, a name in parentheses, may have any in it.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// The proportional set size: what is shared is counted in parts (proc_pid_smaps(5)).
pub(crate) fn pss_bytes(pid: i32) -> Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

pub(crate) fn rss_bytes(pid: i32) -> Result<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The most since [`reset_peak_rss`].
pub(crate) fn peak_rss_bytes(pid: i32) -> Result<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// proc_pid_clear_refs(5).
pub(crate) fn reset_peak_rss(pid: i32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn kilobytes(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let value = value.with_context(|| format!("no {field} in {file}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// What processes have used of the cpus in all their life; those that are gone count for nothing.
pub(crate) fn cpu_time(pids: &[i32]) -> Duration {
    pids.iter().filter_map(|&pid| cpu_time_of(pid)).sum()
}

fn cpu_time_of(pid: i32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    Some(Duration::from(clock.now().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_no_parent() {
        assert_eq!(parent("7 (a) b) S 3 7 7 0"), Some(3));
    }

    #[test]
    fn shims_and_pauses_are_overhead_and_containers_are_not() {
        // Daemon 10 with its shim 20; a shim 30 that init adopted.
        let parents = [
            (10, 1),
            (20, 10),
            (21, 20),
            (22, 20),
            (23, 22),
            (30, 1),
            (31, 30),
            (32, 30),
            (40, 1),
        ];
        let tree = Tree {
            parents: parents.into(),
        };
        let mut overhead = tree.overhead(10, &[21, 22, 31, 32], &[22, 32]);
        overhead.sort_unstable();
        assert_eq!(overhead, [20, 21, 30, 31]);
    }

    #[test]
    fn a_process_has_memory_and_uses_the_cpu() {
        let own = std::process::id().cast_signed();
        assert!(pss_bytes(own).unwrap() > 0 && rss_bytes(own).unwrap() > 0);
        assert!(cpu_time(&[own]) > Duration::ZERO);
    }
}
