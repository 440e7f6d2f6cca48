//! The controllers that crisp uses, and the version of the interface.

use std::fmt;

/// Which interface of the kernel carries the controllers. A hybrid host (controllers on version 1
/// and an empty version 2 hierarchy beside them) counts as [`Version::V1`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// One hierarchy per controller or group of controllers (Documentation/admin-guide/cgroup-v1).
    V1,
    /// One hierarchy for all controllers (Documentation/admin-guide/cgroup-v2.rst).
    V2,
}

/// A controller, under its version 1 name where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// Shares and quota.
    Cpu,
    /// Time used; a part of [`Controller::Cpu`] on version 2.
    CpuAcct,
    /// Which cpus and memory nodes.
    CpuSet,
    /// Limits and figures of memory and swap.
    Memory,
    /// The number of processes and threads.
    Pids,
    /// Access to devices; done by BPF on version 2.
    Devices,
    /// Stopping all processes; no controller of its own on version 2.
    Freezer,
    /// Throttles and figures of block devices; `io` on version 2.
    BlkIo,
    /// Limits on huge pages.
    HugeTlb,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::CpuAcct,
        Self::CpuSet,
        Self::Memory,
        Self::Pids,
        Self::Devices,
        Self::Freezer,
        Self::BlkIo,
        Self::HugeTlb,
    ];

    /// The name in `/proc/cgroups`, mount options and, on version 2, `cgroup.controllers`.
    #[must_use]
    pub const fn name(self, version: Version) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::CpuSet => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::BlkIo => match version {
                Version::V1 => "blkio",
                Version::V2 => "io",
            },
            Self::HugeTlb => "hugetlb",
        }
    }

    /// The controller of that name.
    #[must_use]
    pub fn from_name(name: &str, version: Version) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|controller| controller.name(version) == name && controller.exists_on(version))
    }

    /// What pods and containers go without on a host that lacks the controller.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Cpu => "cpu shares and quotas",
            Self::CpuAcct => "cpu usage figures",
            Self::CpuSet => "pinning to cpus and memory nodes",
            Self::Memory => "memory limits, figures and OOM detection",
            Self::Pids => "limits on the number of processes",
            Self::Devices => "limits on the use of devices",
            Self::Freezer => "freezing containers",
            Self::BlkIo => "disk throttles and figures",
            Self::HugeTlb => "limits on huge pages",
        }
    }

    /// Whether the interface has it as a controller at all.
    pub(crate) const fn exists_on(self, version: Version) -> bool {
        match version {
            Version::V1 => true,
            Version::V2 => !matches!(self, Self::CpuAcct | Self::Devices | Self::Freezer),
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name(Version::V1))
    }
}
