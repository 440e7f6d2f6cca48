//! Figures of version 2.

use super::{CpuStats, Extent, IoStats, MemoryStats};
use crate::controller::Controller;
use crate::parse::{self, FlatKeyed};
use crate::{Cgroup, Error};

const USEC_NS: u64 = 1000;

/// The file is there without the cpu controller too, only the lines on the quota are then not.
pub(super) fn cpu(cgroup: &Cgroup) -> Result<Option<CpuStats>, Error> {
    let Some(unified) = cgroup.hierarchies().unified() else {
        return Ok(None);
    };
    let stat = cgroup.text(unified, "cpu.stat")?;
    Ok(stat.map(|stat| cpu_stats(FlatKeyed(&stat))))
}

fn cpu_stats(stat: FlatKeyed<'_>) -> CpuStats {
    let time = |key| stat.or_zero(key).saturating_mul(USEC_NS);
    CpuStats {
        usage_ns: time("usage_usec"),
        user_ns: Some(time("user_usec")),
        system_ns: Some(time("system_usec")),
        periods: Some(stat.or_zero("nr_periods")),
        throttled_periods: Some(stat.or_zero("nr_throttled")),
        throttled_ns: Some(time("throttled_usec")),
    }
}

pub(super) fn memory(cgroup: &Cgroup, extent: Extent) -> Result<Option<MemoryStats>, Error> {
    const MEMORY: Controller = Controller::Memory;
    let Some(usage_bytes) = cgroup.number(MEMORY, "memory.current")? else {
        return Ok(None);
    };
    let stat = cgroup.content(MEMORY, "memory.stat")?.unwrap_or_default();
    let usage = MemoryStats {
        limit_bytes: cgroup.limit(MEMORY, "memory.max")?,
        swap_bytes: cgroup.number(MEMORY, "memory.swap.current")?,
        ..memory_stats(usage_bytes, FlatKeyed(&stat))
    };
    if extent != Extent::All {
        return Ok(Some(usage));
    }
    let events = cgroup.content(MEMORY, "memory.events")?.unwrap_or_default();
    let events = FlatKeyed(&events);
    Ok(Some(MemoryStats {
        max_usage_bytes: cgroup.number(MEMORY, "memory.peak")?,
        limit_hits: Some(events.or_zero("max")),
        oom_kills: Some(events.or_zero("oom_kill")),
        ..usage
    }))
}

fn memory_stats(usage_bytes: u64, stat: FlatKeyed<'_>) -> MemoryStats {
    let [rss, cache, mapped, active, inactive, kernel, faults, major] = stat.each([
        "anon",
        "file",
        "file_mapped",
        "active_file",
        "inactive_file",
        "kernel",
        "pgfault",
        "pgmajfault",
    ]);
    let inactive_file_bytes = inactive.unwrap_or(0);
    MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(inactive_file_bytes),
        rss_bytes: rss.unwrap_or(0),
        cache_bytes: cache.unwrap_or(0),
        mapped_file_bytes: mapped.unwrap_or(0),
        active_file_bytes: active.unwrap_or(0),
        inactive_file_bytes,
        kernel_bytes: Some(kernel.unwrap_or_else(|| parts_of_kernel(stat))),
        page_faults: faults.unwrap_or(0),
        major_page_faults: major.unwrap_or(0),
        ..MemoryStats::default()
    }
}

/// What makes up the most of it, before Linux 5.18 counted it as a whole.
fn parts_of_kernel(stat: FlatKeyed<'_>) -> u64 {
    let parts = stat.each(["kernel_stack", "slab", "pagetables", "percpu"]);
    parts.into_iter().flatten().sum()
}

/// The counts of `memory.events` include the cgroups below.
pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<u64, Error> {
    let events = cgroup.content(Controller::Memory, "memory.events")?;
    Ok(FlatKeyed(&events.unwrap_or_default()).or_zero("oom_kill"))
}

pub(super) fn io(cgroup: &Cgroup) -> Result<Option<Vec<IoStats>>, Error> {
    let stat = cgroup.content(Controller::BlkIo, "io.stat")?;
    Ok(stat.map(|stat| stat.lines().filter_map(io_line).collect()))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`; a device that was not used has no more than
/// its number.
fn io_line(line: &str) -> Option<IoStats> {
    let mut fields = line.split_whitespace();
    let (major, minor) = parse::device(fields.next()?)?;
    let mut stats = IoStats {
        major,
        minor,
        ..IoStats::default()
    };
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        let figure = match key {
            "rbytes" => &mut stats.read_bytes,
            "wbytes" => &mut stats.write_bytes,
            "rios" => &mut stats.read_operations,
            "wios" => &mut stats.write_operations,
            _ => continue,
        };
        *figure = value.parse().ok()?;
    }
    Some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::v2;

    #[test]
    fn cpu_times_become_nanoseconds() {
        let text = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnice_usec 0\nnr_periods 10\n\
                    nr_throttled 4\nthrottled_usec 70\nnr_bursts 0\nburst_usec 0\n";
        assert_eq!(
            cpu_stats(FlatKeyed(text)),
            CpuStats {
                usage_ns: 1_500_000,
                user_ns: Some(1_000_000),
                system_ns: Some(500_000),
                periods: Some(10),
                throttled_periods: Some(4),
                throttled_ns: Some(70_000),
            }
        );
    }

    #[test]
    fn memory_figures_come_from_stat() {
        let stat = "anon 4096\nfile 8192\nkernel 100\nkernel_stack 60\nfile_mapped 12\n\
                    inactive_anon 1\nactive_file 4192\ninactive_file 4000\npgfault 9\npgmajfault 3\n";
        let stats = memory_stats(20_000, FlatKeyed(stat));
        assert_eq!(
            stats,
            MemoryStats {
                usage_bytes: 20_000,
                working_set_bytes: 16_000,
                rss_bytes: 4096,
                cache_bytes: 8192,
                mapped_file_bytes: 12,
                active_file_bytes: 4192,
                inactive_file_bytes: 4000,
                kernel_bytes: Some(100),
                page_faults: 9,
                major_page_faults: 3,
                ..MemoryStats::default()
            }
        );
        let older = memory_stats(1, FlatKeyed("kernel_stack 60\nslab 5\n"));
        assert_eq!(older.kernel_bytes, Some(65));
    }

    #[test]
    fn io_lines_have_keys() {
        let stats = io_line("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6").unwrap();
        assert_eq!(
            stats,
            IoStats {
                major: 8,
                minor: 16,
                read_bytes: 1,
                write_bytes: 2,
                read_operations: 3,
                write_operations: 4,
            }
        );
        assert_eq!(io_line("8:0").unwrap().read_bytes, 0);
        for line in ["", "x", "8:0 rbytes=x"] {
            assert_eq!(io_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn version_2_figures_are_read() {
        let (_root, cgroup) = v2(&[
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n"),
            ("memory.current", "8192\n"),
            ("memory.peak", "9000\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "1\n"),
            ("memory.stat", "anon 4096\ninactive_file 2048\n"),
            ("memory.events", "max 3\noom_kill 2\n"),
            ("pids.current", "4\n"),
            ("pids.max", "10\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n"),
        ]);
        let stats = cgroup.stats(Extent::All).unwrap();
        assert_eq!(stats.cpu.unwrap().usage_ns, 5000);
        let memory = stats.memory.unwrap();
        assert_eq!(memory.working_set_bytes, 6144);
        assert_eq!(memory.max_usage_bytes, Some(9000));
        assert_eq!(memory.limit_bytes, None);
        assert_eq!(memory.swap_bytes, Some(1));
        assert_eq!((memory.limit_hits, memory.oom_kills), (Some(3), Some(2)));
        assert_eq!(stats.pids.unwrap().max, Some(10));
        assert_eq!(stats.io.unwrap()[0].write_operations, 4);
        assert_eq!(stats.pressure, None);
        assert_eq!(cgroup.oom_kills().unwrap(), 2);
    }

    #[test]
    fn what_is_beyond_usage_is_not_read() {
        let (_root, cgroup) = v2(&[
            ("cpu.stat", "usage_usec 5\n"),
            ("memory.current", "8192\n"),
            ("memory.max", "9000\n"),
            ("memory.swap.current", "1\n"),
            ("memory.stat", "anon 4096\n"),
            ("memory.events", "not to be understood"),
            ("memory.peak", "not to be understood"),
            ("pids.current", "4\n"),
            ("pids.max", "not to be understood"),
        ]);
        assert!(cgroup.stats(Extent::All).is_err());
        let usage = cgroup.stats(Extent::Usage).unwrap();
        let memory = usage.memory.unwrap();
        assert_eq!(
            (memory.limit_bytes, memory.swap_bytes),
            (Some(9000), Some(1))
        );
        assert_eq!((memory.max_usage_bytes, memory.oom_kills), (None, None));
        assert_eq!((usage.pids, usage.io), (None, None));
        // In a file system without ids of this kind.
        let again = cgroup.clone().remembering_files().stats(Extent::Usage);
        assert_eq!(again.unwrap().memory, usage.memory);
        let usage = cgroup.stats(Extent::UsageAndProcesses).unwrap();
        assert_eq!((usage.pids.unwrap().current, usage.io), (4, None));
    }
}
