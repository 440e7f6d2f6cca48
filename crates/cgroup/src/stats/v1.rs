//! Figures of version 1.

use std::path::Path;

use super::{CpuStats, Extent, IoStats, MemoryStats};
use crate::controller::Controller;
use crate::parse::{self, FlatKeyed};
use crate::{Cgroup, Error, file};

/// `cpuacct.stat` counts in USER_HZ, which is 100 on every architecture that crisp runs on.
const TICK_NS: u64 = 1_000_000_000 / 100;

pub(super) fn cpu(cgroup: &Cgroup, extent: Extent) -> Result<Option<CpuStats>, Error> {
    let Some(usage_ns) = cgroup.number(Controller::CpuAcct, "cpuacct.usage")? else {
        return Ok(None);
    };
    if extent != Extent::All {
        return Ok(Some(CpuStats {
            usage_ns,
            ..CpuStats::default()
        }));
    }
    let times = cgroup.content(Controller::CpuAcct, "cpuacct.stat")?;
    let quota = cgroup.content(Controller::Cpu, "cpu.stat")?;
    Ok(Some(cpu_stats(
        usage_ns,
        FlatKeyed(&times.unwrap_or_default()),
        FlatKeyed(&quota.unwrap_or_default()),
    )))
}

fn cpu_stats(usage_ns: u64, times: FlatKeyed<'_>, quota: FlatKeyed<'_>) -> CpuStats {
    CpuStats {
        usage_ns,
        user_ns: Some(times.or_zero("user").saturating_mul(TICK_NS)),
        system_ns: Some(times.or_zero("system").saturating_mul(TICK_NS)),
        periods: Some(quota.or_zero("nr_periods")),
        throttled_periods: Some(quota.or_zero("nr_throttled")),
        throttled_ns: Some(quota.or_zero("throttled_time")),
    }
}

pub(super) fn memory(cgroup: &Cgroup, extent: Extent) -> Result<Option<MemoryStats>, Error> {
    const MEMORY: Controller = Controller::Memory;
    let Some(usage_bytes) = cgroup.number(MEMORY, "memory.usage_in_bytes")? else {
        return Ok(None);
    };
    let stat = cgroup.content(MEMORY, "memory.stat")?.unwrap_or_default();
    let mut usage = memory_stats(usage_bytes, FlatKeyed(&stat));
    if usage.limit_bytes.is_some() {
        usage.limit_bytes = cgroup.limit(MEMORY, "memory.limit_in_bytes")?;
    }
    if extent != Extent::All {
        return Ok(Some(usage));
    }
    Ok(Some(MemoryStats {
        max_usage_bytes: cgroup.number(MEMORY, "memory.max_usage_in_bytes")?,
        kernel_bytes: Some(
            cgroup
                .number(MEMORY, "memory.kmem.usage_in_bytes")?
                .unwrap_or(0),
        ),
        limit_hits: Some(limit_hits(cgroup)?),
        oom_kills: Some(oom_kills(cgroup)?),
        ..usage
    }))
}

/// With equal limits on memory and on memory and swap together it is the latter that is met.
fn limit_hits(cgroup: &Cgroup) -> Result<u64, Error> {
    let hits = |file| Ok(cgroup.number(Controller::Memory, file)?.unwrap_or(0));
    Ok(hits("memory.failcnt")? + hits("memory.memsw.failcnt")?)
}

/// The keys with `total_` count the cgroups below as well. The one of swap is there where swap is accounted. The
/// limit is the lowest of its own and those of the cgroups above: where that is none, it has none.
fn memory_stats(usage_bytes: u64, stat: FlatKeyed<'_>) -> MemoryStats {
    let [
        limit,
        rss,
        cache,
        mapped,
        active,
        inactive,
        swap,
        faults,
        major,
    ] = stat.each([
        "hierarchical_memory_limit",
        "total_rss",
        "total_cache",
        "total_mapped_file",
        "total_active_file",
        "total_inactive_file",
        "total_swap",
        "total_pgfault",
        "total_pgmajfault",
    ]);
    let inactive_file_bytes = inactive.unwrap_or(0);
    MemoryStats {
        usage_bytes,
        limit_bytes: limit.and_then(parse::finite),
        working_set_bytes: usage_bytes.saturating_sub(inactive_file_bytes),
        rss_bytes: rss.unwrap_or(0),
        cache_bytes: cache.unwrap_or(0),
        mapped_file_bytes: mapped.unwrap_or(0),
        active_file_bytes: active.unwrap_or(0),
        inactive_file_bytes,
        swap_bytes: swap,
        page_faults: faults.unwrap_or(0),
        major_page_faults: major.unwrap_or(0),
        ..MemoryStats::default()
    }
}

/// Version 1 counts a kill in the victim's cgroup only, so those below are added up.
pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<u64, Error> {
    let Some(top) = cgroup.dir_of(Controller::Memory) else {
        return Ok(0);
    };
    let own = file::read(&top, "memory.oom_control");
    let mut kills = oom_kills_of(&own.map_err(|error| cgroup.unreadable(&top, error))?);
    for dir in file::descendants(&top) {
        kills += oom_kills_in(&dir);
    }
    Ok(kills)
}

/// Zero when the cgroup went away meanwhile: its count went with it.
fn oom_kills_in(dir: &Path) -> u64 {
    file::read(dir, "memory.oom_control").map_or(0, |text| oom_kills_of(&text))
}

fn oom_kills_of(oom_control: &str) -> u64 {
    FlatKeyed(oom_control).or_zero("oom_kill")
}

/// `blkio.throttle` counts with every I/O scheduler, `blkio.bfq` with one.
pub(super) fn io(cgroup: &Cgroup) -> Result<Option<Vec<IoStats>>, Error> {
    let read = |file| cgroup.content(Controller::BlkIo, file);
    let Some(bytes) = read("blkio.throttle.io_service_bytes_recursive")? else {
        return Ok(None);
    };
    let operations = read("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
    Ok(Some(io_stats(&bytes, &operations)))
}

/// Both files have lines `8:0 Read 4096`, and a sum at the end.
fn io_stats(bytes: &str, operations: &str) -> Vec<IoStats> {
    let mut devices: Vec<IoStats> = Vec::new();
    for (is_bytes, line) in bytes
        .lines()
        .map(|line| (true, line))
        .chain(operations.lines().map(|line| (false, line)))
    {
        let Some((number, kind, value)) = io_line(line) else {
            continue;
        };
        let device = device_of(&mut devices, number);
        match (is_bytes, kind) {
            (true, "Read") => device.read_bytes = value,
            (true, "Write") => device.write_bytes = value,
            (false, "Read") => device.read_operations = value,
            (false, "Write") => device.write_operations = value,
            _ => {}
        }
    }
    devices
}

pub(super) fn io_line(line: &str) -> Option<((u32, u32), &str, u64)> {
    let mut fields = line.split_whitespace();
    let number = parse::device(fields.next()?)?;
    Some((number, fields.next()?, fields.next()?.parse().ok()?))
}

fn device_of(devices: &mut Vec<IoStats>, (major, minor): (u32, u32)) -> &mut IoStats {
    let known = devices
        .iter()
        .position(|device| (device.major, device.minor) == (major, minor));
    let index = known.unwrap_or_else(|| {
        devices.push(IoStats {
            major,
            minor,
            ..IoStats::default()
        });
        devices.len() - 1
    });
    &mut devices[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_become_nanoseconds() {
        let stats = cpu_stats(
            1_234_567_890,
            FlatKeyed("user 100\nsystem 23\n"),
            FlatKeyed("nr_periods 10\nnr_throttled 4\nthrottled_time 5000000\nnr_bursts 0\n"),
        );
        assert_eq!(
            stats,
            CpuStats {
                usage_ns: 1_234_567_890,
                user_ns: Some(1_000_000_000),
                system_ns: Some(230_000_000),
                periods: Some(10),
                throttled_periods: Some(4),
                throttled_ns: Some(5_000_000),
            }
        );
    }

    #[test]
    fn memory_counts_the_whole_subtree() {
        let stat = "cache 1\nrss 2\nhierarchical_memory_limit 30000\ntotal_cache 8192\ntotal_rss 4096\ntotal_mapped_file 12\n\
                    total_swap 7\ntotal_pgfault 9\ntotal_pgmajfault 3\ntotal_inactive_file 4000\n\
                    total_active_file 4192\n";
        let stats = memory_stats(20_000, FlatKeyed(stat));
        assert_eq!(
            stats,
            MemoryStats {
                usage_bytes: 20_000,
                limit_bytes: Some(30_000),
                working_set_bytes: 16_000,
                rss_bytes: 4096,
                cache_bytes: 8192,
                mapped_file_bytes: 12,
                active_file_bytes: 4192,
                inactive_file_bytes: 4000,
                swap_bytes: Some(7),
                page_faults: 9,
                major_page_faults: 3,
                ..MemoryStats::default()
            }
        );
        assert_eq!(memory_stats(1, FlatKeyed(stat)).working_set_bytes, 0);
        let unlimited = stat.replace("30000", "9223372036854771712");
        assert_eq!(memory_stats(1, FlatKeyed(&unlimited)).limit_bytes, None);
        let unaccounted = stat.replace("total_swap 7\n", "");
        assert_eq!(memory_stats(1, FlatKeyed(&unaccounted)).swap_bytes, None);
    }

    #[test]
    fn oom_kills_are_a_key() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(oom_kills_of(text), 2);
        assert_eq!(oom_kills_of(""), 0);
    }

    #[test]
    fn devices_are_put_together_from_two_files() {
        let bytes =
            "8:0 Read 4096\n8:0 Write 0\n8:0 Sync 1\n8:0 Total 4096\n8:16 Write 512\nTotal 4608\n";
        let operations = "8:0 Read 1\n8:16 Write 2\nTotal 3\n";
        let stats = io_stats(bytes, operations);
        assert_eq!(stats.len(), 2);
        assert_eq!((stats[0].read_bytes, stats[0].read_operations), (4096, 1));
        assert_eq!(
            (
                stats[1].minor,
                stats[1].write_bytes,
                stats[1].write_operations
            ),
            (16, 512, 2)
        );
        assert_eq!(io_stats("Total 0\n", ""), []);
    }
}
