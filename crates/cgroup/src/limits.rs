//! The limits in force.

use serde::Serialize;

use crate::controller::{Controller, Version};
use crate::{Cgroup, Error};

/// The limits in force, as the kernel says. None: no limit, or no controller that could hold one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Version 1's weight among siblings, 2 to 262,144.
    pub cpu_shares: Option<u64>,
    /// Version 2's weight among siblings, 1 to 10,000.
    pub cpu_weight: Option<u64>,
    /// Cpu time of all processes together in each period.
    pub cpu_quota_us: Option<u64>,
    /// The period of the quota.
    pub cpu_period_us: Option<u64>,
    /// A list such as `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// A list such as `0`.
    pub cpuset_mems: Option<String>,
    /// Above this processes are killed.
    pub memory_limit_bytes: Option<u64>,
    /// Of memory and swap together, on both versions.
    pub memory_swap_limit_bytes: Option<u64>,
    /// What reclaim spares: version 1's soft limit, version 2's `memory.low`.
    pub memory_reservation_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
}

impl Cgroup {
    /// The limits in force.
    pub fn limits(&self) -> Result<Limits, Error> {
        match self.hierarchies().version() {
            Version::V1 => self.limits_v1(),
            Version::V2 => self.limits_v2(),
        }
    }

    fn limits_v1(&self) -> Result<Limits, Error> {
        use Controller::{Cpu, Memory};
        Ok(Limits {
            cpu_shares: self.number(Cpu, "cpu.shares")?,
            cpu_weight: None,
            cpu_quota_us: self.limit(Cpu, "cpu.cfs_quota_us")?,
            cpu_period_us: self.number(Cpu, "cpu.cfs_period_us")?,
            cpuset_cpus: self.list("cpuset.cpus")?,
            cpuset_mems: self.list("cpuset.mems")?,
            memory_limit_bytes: self.limit(Memory, "memory.limit_in_bytes")?,
            memory_swap_limit_bytes: self.limit(Memory, "memory.memsw.limit_in_bytes")?,
            memory_reservation_bytes: self.limit(Memory, "memory.soft_limit_in_bytes")?,
            pids_max: self.limit(Controller::Pids, "pids.max")?,
        })
    }

    fn limits_v2(&self) -> Result<Limits, Error> {
        use Controller::{Cpu, Memory};
        let (cpu_quota_us, cpu_period_us) = self.cpu_max()?.unzip();
        let memory_limit_bytes = self.limit(Memory, "memory.max")?;
        let swap_limit_bytes = self.limit(Memory, "memory.swap.max")?;
        Ok(Limits {
            cpu_shares: None,
            cpu_weight: self.number(Cpu, "cpu.weight")?,
            cpu_quota_us: cpu_quota_us.flatten(),
            cpu_period_us,
            cpuset_cpus: self.list("cpuset.cpus.effective")?,
            cpuset_mems: self.list("cpuset.mems.effective")?,
            memory_limit_bytes,
            memory_swap_limit_bytes: memory_limit_bytes
                .zip(swap_limit_bytes)
                .map(|(memory, swap)| memory.saturating_add(swap)),
            memory_reservation_bytes: self.number(Memory, "memory.low")?.filter(|low| *low > 0),
            pids_max: self.limit(Controller::Pids, "pids.max")?,
        })
    }

    fn list(&self, file: &str) -> Result<Option<String>, Error> {
        self.value(Controller::CpuSet, file, |text| {
            Some(text.trim().to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::v2;

    #[test]
    fn version_2_limits_are_read() {
        let (_root, cgroup) = v2(&[
            ("cpu.weight", "59\n"),
            ("cpu.max", "50000 100000\n"),
            ("cpuset.cpus.effective", "0-1\n"),
            ("cpuset.mems.effective", "0\n"),
            ("memory.max", "67108864\n"),
            ("memory.swap.max", "33554432\n"),
            ("memory.low", "0\n"),
            ("pids.max", "max\n"),
        ]);
        let limits = Limits {
            cpu_weight: Some(59),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            memory_limit_bytes: Some(67_108_864),
            memory_swap_limit_bytes: Some(100_663_296),
            ..Limits::default()
        };
        assert_eq!(cgroup.limits().unwrap(), limits);
    }

    #[test]
    fn files_that_are_not_understood_are_named() {
        let (_root, cgroup) = v2(&[("cpu.max", "much\n")]);
        let error = cgroup.limits().unwrap_err();
        assert!(matches!(&error, Error::Malformed { path, text }
            if path.ends_with("pod/cpu.max") && text == "much\n"));
    }
}
