//! Limits beside what is used of them. Pure.

use crate::facts::{Cgroup, Cpu, Limits, Stats};
use crate::text::{bytes, number};
use std::time::Duration;

/// A line for each resource: its name, and what is used of how much.
pub(super) fn lines(cgroup: &Cgroup) -> Vec<(&'static str, String)> {
    let (limits, stats) = (&cgroup.limits, &cgroup.stats);
    let mut lines = vec![
        ("memory", memory(limits, stats)),
        ("pids", pids(limits, stats)),
        ("cpu", cpu(limits, stats.cpu.as_ref())),
    ];
    lines.extend(swap(limits, stats).map(|line| ("swap", line)));
    lines.extend(cpuset(limits).map(|line| ("cpuset", line)));
    lines.extend(hugepages(stats).map(|line| ("hugepages", line)));
    lines.extend(pressure(stats).map(|line| ("pressure", line)));
    lines
}

fn memory(limits: &Limits, stats: &Stats) -> String {
    let limit = limits.memory_limit_bytes.map(bytes);
    let Some(memory) = &stats.memory else {
        return of(None, limit);
    };
    let mut text = of(Some(bytes(memory.usage_bytes)), limit);
    text.push_str(&format!(
        ", working set {}",
        bytes(memory.working_set_bytes)
    ));
    if let Some(most) = memory.max_usage_bytes {
        text.push_str(&format!(", at most {}", bytes(most)));
    }
    if let Some(spared) = limits.memory_reservation_bytes {
        text.push_str(&format!(", {} spared from reclaim", bytes(spared)));
    }
    if memory.oom_kills > 0 {
        text.push_str(&format!(", {}", number(memory.oom_kills, "OOM kill")));
    }
    text
}

fn pids(limits: &Limits, stats: &Stats) -> String {
    let used = stats.pids.as_ref().map(|pids| pids.current.to_string());
    of(used, limits.pids_max.map(|max| max.to_string()))
}

/// `3 of 100`, `3 (no limit)`.
fn of(used: Option<String>, limit: Option<String>) -> String {
    let used = used.unwrap_or_else(|| "not measured".to_owned());
    match limit {
        Some(limit) => format!("{used} of {limit}"),
        None => format!("{used} (no limit)"),
    }
}

fn cpu(limits: &Limits, used: Option<&Cpu>) -> String {
    let mut parts = Vec::new();
    match (limits.cpu_quota_us, limits.cpu_period_us) {
        (Some(quota), Some(period)) if period > 0 => {
            parts.push(format!("quota {}", thousandths(quota, period)))
        }
        _ => parts.push("no quota".to_owned()),
    }
    parts.extend(limits.cpu_shares.map(|shares| format!("shares {shares}")));
    parts.extend(limits.cpu_weight.map(|weight| format!("weight {weight}")));
    if let Some(used) = used {
        parts.push(format!("used {}", seconds(used.usage_ns)));
        parts.extend(throttled(used));
    }
    parts.join(", ")
}

fn throttled(used: &Cpu) -> Option<String> {
    let share = u128::from(used.throttled_periods) * 100 / u128::from(used.periods.max(1));
    let long = seconds(used.throttled_ns);
    (used.throttled_periods > 0).then(|| format!("throttled {share} % of periods ({long})"))
}

fn seconds(nanoseconds: u64) -> String {
    let millis = Duration::from_nanos(nanoseconds).as_millis();
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

/// A fraction with as many decimals as it needs, at most three.
fn thousandths(numerator: u64, denominator: u64) -> String {
    let thousandths = u128::from(numerator) * 1000 / u128::from(denominator);
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn swap(limits: &Limits, stats: &Stats) -> Option<String> {
    let used = bytes(stats.memory.as_ref()?.swap_bytes?);
    let both = limits.memory_swap_limit_bytes;
    let limit = both.map(|both| both.saturating_sub(limits.memory_limit_bytes.unwrap_or(0)));
    Some(match limit {
        Some(0) => format!("{used} (none allowed)"),
        limit => of(Some(used), limit.map(bytes)),
    })
}

fn cpuset(limits: &Limits) -> Option<String> {
    let given = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    let cpus = given(&limits.cpuset_cpus)?;
    Some(match given(&limits.cpuset_mems) {
        Some(mems) => format!("cpus {cpus}, memory nodes {mems}"),
        None => format!("cpus {cpus}"),
    })
}

fn hugepages(stats: &Stats) -> Option<String> {
    let used = stats.hugetlb.iter().filter(|pages| pages.usage_bytes > 0);
    let used: Vec<String> = used
        .map(|pages| format!("{} of {}", bytes(pages.usage_bytes), pages.page_size))
        .collect();
    (!used.is_empty()).then(|| used.join(", "))
}

fn pressure(stats: &Stats) -> Option<String> {
    let pressure = stats.pressure.as_ref()?;
    Some(format!(
        "cpu {:.1} %, memory {:.1} %, io {:.1} % of the last 10 s",
        pressure.cpu.some.avg10, pressure.memory.some.avg10, pressure.io.some.avg10
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(cgroup: Value) -> Vec<String> {
        let cgroup: Cgroup = serde_json::from_value(cgroup).unwrap();
        lines(&cgroup)
            .iter()
            .map(|(name, line)| format!("{name}: {line}"))
            .collect()
    }

    #[test]
    fn usage_is_told_beside_the_limit() {
        let stall = json!({"some": {"avg10": 1.25}});
        let lines = shown(json!({
            "path": "/x",
            "limits": {"memory_limit_bytes": 64 << 20, "pids_max": 100, "cpu_quota_us": 50_000, "cpu_period_us": 100_000,
                       "cpu_shares": 102, "memory_swap_limit_bytes": 96 << 20, "cpuset_cpus": "0-1", "cpuset_mems": "0"},
            "stats": {
                "cpu": {"usage_ns": 1_234_000_000, "periods": 100, "throttled_periods": 12, "throttled_ns": 5_000_000},
                "memory": {"usage_bytes": 12_900_000, "max_usage_bytes": 20 << 20, "working_set_bytes": 1 << 20,
                           "swap_bytes": 0, "oom_kills": 1},
                "pids": {"current": 3},
                "hugetlb": [{"page_size": "2MB", "usage_bytes": 2 << 20}],
                "pressure": {"cpu": stall, "memory": stall, "io": stall},
            },
        }));
        assert_eq!(
            lines,
            [
                "memory: 12.3 MiB of 64 MiB, working set 1 MiB, at most 20 MiB, 1 OOM kill",
                "pids: 3 of 100",
                "cpu: quota 0.5, shares 102, used 1.234 s, throttled 12 % of periods (0.005 s)",
                "swap: 0 B of 32 MiB",
                "cpuset: cpus 0-1, memory nodes 0",
                "hugepages: 2 MiB of 2MB",
                "pressure: cpu 1.2 %, memory 1.2 %, io 1.2 % of the last 10 s",
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        assert_eq!(
            shown(json!({"path": "/x"})),
            [
                "memory: not measured (no limit)",
                "pids: not measured (no limit)",
                "cpu: no quota"
            ]
        );
    }

    #[test]
    fn quotas_are_told_in_cpus() {
        for (quota, period, text) in [
            (50_000, 100_000, "0.5"),
            (200_000, 100_000, "2"),
            (1000, 100_000, "0.01"),
        ] {
            assert_eq!(thousandths(quota, period), text);
        }
    }
}
