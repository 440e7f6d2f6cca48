//! What a cgroup has used and uses: one shape of figures for both versions.
//!
//! Every figure is in a file of its own or beside a few others, and a read takes the kernel microseconds.
//! What kubelets ask for every few seconds, for all containers, is half of all: see [`Extent`].

mod bfq;
mod v1;
mod v2;

pub use bfq::IoTimes;

use std::time::SystemTime;

use nix::errno::Errno;
use serde::Serialize;

use crate::controller::{Controller, Version};
use crate::hierarchies::Mount;
use crate::pressure::Pressure;
use crate::{Cgroup, Error, file, parse};

/// How many of the figures are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What the CRI's stats tell of a container: cpu time, memory, pressure.
    Usage,
    /// And of a pod: the number of processes as well.
    UsageAndProcesses,
    /// All that there are.
    All,
}

/// Figures of a cgroup with all below it. A part is None when the host lacks its controller, and when it
/// is beyond the [`Extent`] that was asked for; `hugetlb` is empty then.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// When the cpu time was read.
    pub read_at: SystemTime,
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory and swap.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
    /// Block devices, those only that were used. On version 1 this counts what reached the device from
    /// the process itself: buffered writes are the kernel's and not in it. Recent kernels count there only
    /// for devices that were throttled once.
    pub io: Option<Vec<IoStats>>,
    /// One for each size of huge pages.
    pub hugetlb: Vec<HugetlbStats>,
    /// Pressure stall information; None where the kernel has none for this cgroup.
    pub pressure: Option<PressureStats>,
}

/// Processor time since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuStats {
    /// Used in total.
    pub usage_ns: u64,
    /// Of which in user mode. Version 1 counts it, and `system_ns`, in hundredths of a second.
    pub user_ns: Option<u64>,
    /// Of which in the kernel.
    pub system_ns: Option<u64>,
    /// Quota periods in which something ran.
    pub periods: Option<u64>,
    /// Of which the quota ran out in so many.
    pub throttled_periods: Option<u64>,
    /// How long processes were kept from running by the quota, summed over cpus.
    pub throttled_ns: Option<u64>,
}

/// Memory now, and events since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStats {
    /// Everything charged, page cache included.
    pub usage_bytes: u64,
    /// The most that was charged at any time; None before Linux 5.19 on version 2.
    pub max_usage_bytes: Option<u64>,
    /// Usage without the page cache that was not used lately, as the kubelet counts for evictions.
    pub working_set_bytes: u64,
    /// None: unlimited.
    pub limit_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page cache, tmpfs and shared memory included.
    pub cache_bytes: u64,
    /// Page cache that is mapped.
    pub mapped_file_bytes: u64,
    /// Page cache that was used lately.
    pub active_file_bytes: u64,
    /// Page cache that was not.
    pub inactive_file_bytes: u64,
    /// The kernel's own: stacks, slab, page tables …
    pub kernel_bytes: Option<u64>,
    /// Swapped out; None without swap accounting.
    pub swap_bytes: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Those that waited for a disk.
    pub major_page_faults: u64,
    /// How often the usage met the limit. Recent kernels no longer count it on version 1.
    pub limit_hits: Option<u64>,
    /// Processes killed by the OOM killer.
    pub oom_kills: Option<u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PidsStats {
    /// How many there are, ended ones included that nobody has waited for.
    pub current: u64,
    /// How many there may be; None: no limit.
    pub max: Option<u64>,
    /// How often a fork failed because of the limit; None before Linux 4.3.
    pub refused_forks: Option<u64>,
}

/// One block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IoStats {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub read_operations: u64,
    /// Write operations.
    pub write_operations: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HugetlbStats {
    /// `2MB`, `1GB` …
    pub page_size: String,
    /// In use.
    pub usage_bytes: u64,
    /// The most at any time; None on version 2.
    pub max_usage_bytes: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: u64,
}

/// How processes of the cgroup are held up (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PressureStats {
    /// Waiting for a cpu.
    pub cpu: Pressure,
    /// Waiting for memory.
    pub memory: Pressure,
    /// Waiting for block devices.
    pub io: Pressure,
}

impl Cgroup {
    /// Its figures.
    pub fn stats(&self, extent: Extent) -> Result<Stats, Error> {
        let read_at = SystemTime::now();
        let (cpu, memory) = match self.hierarchies().version() {
            Version::V1 => (v1::cpu(self, extent)?, v1::memory(self, extent)?),
            Version::V2 => (v2::cpu(self)?, v2::memory(self, extent)?),
        };
        let usage = Stats {
            read_at,
            cpu,
            memory,
            pids: self.pids_stats(extent)?,
            io: None,
            hugetlb: Vec::new(),
            pressure: self.pressure()?,
        };
        match extent {
            Extent::Usage | Extent::UsageAndProcesses => Ok(usage),
            Extent::All => Ok(Stats {
                io: self.io_stats()?,
                hugetlb: self.hugetlb_stats()?,
                ..usage
            }),
        }
    }

    /// How many processes the OOM killer has killed, here and below.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        match self.hierarchies().version() {
            Version::V1 => v1::oom_kills(self),
            Version::V2 => v2::oom_kills(self),
        }
    }

    fn pids_stats(&self, extent: Extent) -> Result<Option<PidsStats>, Error> {
        if extent == Extent::Usage {
            return Ok(None);
        }
        let Some(current) = self.number(Controller::Pids, "pids.current")? else {
            return Ok(None);
        };
        let usage = PidsStats {
            current,
            ..PidsStats::default()
        };
        if extent != Extent::All {
            return Ok(Some(usage));
        }
        let events = self.content(Controller::Pids, "pids.events")?;
        Ok(Some(PidsStats {
            max: self.limit(Controller::Pids, "pids.max")?,
            refused_forks: events.map(|events| parse::FlatKeyed(&events).or_zero("max")),
            ..usage
        }))
    }

    fn io_stats(&self) -> Result<Option<Vec<IoStats>>, Error> {
        match self.hierarchies().version() {
            Version::V1 => v1::io(self),
            Version::V2 => v2::io(self),
        }
    }

    fn hugetlb_stats(&self) -> Result<Vec<HugetlbStats>, Error> {
        let Some(dir) = self.dir_of(Controller::HugeTlb) else {
            return Ok(Vec::new());
        };
        let names = file::names(&dir).map_err(|error| self.unreadable(&dir, error))?;
        let suffix = match self.hierarchies().version() {
            Version::V1 => "usage_in_bytes",
            Version::V2 => "current",
        };
        let sizes = names
            .iter()
            .filter_map(|name| parse::hugepage_size(name, suffix));
        sizes.map(|size| self.hugetlb_of(size)).collect()
    }

    fn hugetlb_of(&self, size: &str) -> Result<HugetlbStats, Error> {
        let number =
            |suffix: &str| self.number(Controller::HugeTlb, &format!("hugetlb.{size}.{suffix}"));
        let page_size = size.to_owned();
        match self.hierarchies().version() {
            Version::V1 => Ok(HugetlbStats {
                page_size,
                usage_bytes: number("usage_in_bytes")?.unwrap_or(0),
                max_usage_bytes: number("max_usage_in_bytes")?,
                limit_hits: number("failcnt")?.unwrap_or(0),
            }),
            Version::V2 => {
                let events = format!("hugetlb.{size}.events");
                let events = self.content(Controller::HugeTlb, &events)?;
                Ok(HugetlbStats {
                    page_size,
                    usage_bytes: number("current")?.unwrap_or(0),
                    max_usage_bytes: None,
                    limit_hits: parse::FlatKeyed(&events.unwrap_or_default()).or_zero("max"),
                })
            }
        }
    }

    /// Pressure is kept in the version 2 hierarchy, which a hybrid host has too.
    fn pressure(&self) -> Result<Option<PressureStats>, Error> {
        let Some(unified) = self.hierarchies().unified() else {
            return Ok(None);
        };
        let read = |file| self.pressure_of(unified, file);
        let (Some(cpu), Some(memory), Some(io)) = (
            read("cpu.pressure")?,
            read("memory.pressure")?,
            read("io.pressure")?,
        ) else {
            return Ok(None);
        };
        Ok(Some(PressureStats { cpu, memory, io }))
    }
    /// None: the kernel has no such file, or pressure is switched off for the host or the cgroup.
    fn pressure_of(&self, unified: &Mount, file: &str) -> Result<Option<Pressure>, Error> {
        let dir = || self.dir_in(unified);
        match self.read(unified, file) {
            Ok(text) => Pressure::parse(&text)
                .map(Some)
                .ok_or_else(|| Error::Malformed {
                    path: dir().join(file),
                    text,
                }),
            Err(error) if file::is_gone(&error) || file::is(&error, Errno::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(Error::io("read the pressure in", &dir())(error)),
        }
    }
}
