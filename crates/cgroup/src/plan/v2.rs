//! The settings of version 2.

use std::ops::RangeInclusive;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{
    Bandwidth, Bound, MemoryState, Setting, State, Throttle, Throttles, check_swap,
    check_swap_unaccounted, hugepages, pids, refuse_what_nobody_enforces, require,
};
use crate::Error;
use crate::controller::{Controller, Version};

/// What applies the limits to a cgroup in that state; `has` says which controllers there are.
pub(crate) fn settings(
    resources: &LinuxResources,
    state: &State,
    has: impl Fn(Controller) -> bool,
) -> Result<Vec<Setting>, Error> {
    refuse_what_nobody_enforces(resources)?;
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, state.bandwidth, &mut settings)?;
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, state.memory, &mut settings)?;
    }
    settings.extend(pids(resources));
    if let Some(block_io) = resources.block_io() {
        block_io_settings(block_io, &mut settings);
    }
    if has(Controller::HugeTlb) {
        hugepage_settings(resources, &mut settings)?;
    }
    unified_settings(resources, &mut settings)?;
    require(&settings, has)?;
    Ok(settings)
}

/// The weight of version 2 (1 to 10,000) for shares of version 1 (2 to 262,144).
///
/// A curve through both ends and through the defaults: 1024 shares are a weight of 100. runc, crun and
/// the kubelet use the same, so that a container and its pod are weighed alike.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    const LEAST_SHARES: u64 = 2;
    const MOST_SHARES: u32 = 262_144;
    const LEAST_WEIGHT: u64 = 1;
    const MOST_WEIGHT: u64 = 10_000;
    // The curve is rounded up; an error of the last bits above a whole number is no reason to.
    const TOLERANCE: f64 = 1e-6;
    let shares = match u32::try_from(shares) {
        _ if shares <= LEAST_SHARES => return LEAST_WEIGHT,
        Ok(shares) if shares < MOST_SHARES => f64::from(shares),
        _ => return MOST_WEIGHT,
    };
    let log = shares.log2();
    let exponent = (log * log + 125.0 * log - 126.0) / 612.0;
    let weight = (10_f64.powf(exponent) - TOLERANCE).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10,000, as the exponent is between 0 and 4"
    )]
    let weight = weight as u64;
    weight
}

/// The most shares of version 1 that have this weight of version 2: the opposite of what runc, crun, the
/// kubelet and this crate do to shares, as far as weights tell them apart.
#[must_use]
pub fn shares_of_weight(weight: u64) -> u64 {
    const SHARES: RangeInclusive<u64> = 2..=262_144;
    let (mut most, mut more) = (*SHARES.start(), *SHARES.end() + 1);
    while most + 1 < more {
        let middle = u64::midpoint(most, more);
        match weight_of_shares(middle) <= weight {
            true => most = middle,
            false => more = middle,
        }
    }
    most
}

fn cpu_settings(
    cpu: &LinuxCpu,
    current: Option<Bandwidth>,
    settings: &mut Vec<Setting>,
) -> Result<(), Error> {
    let realtime = [
        cpu.realtime_runtime().is_some_and(|runtime| runtime != 0),
        cpu.realtime_period().is_some_and(|period| period != 0),
    ];
    if realtime.contains(&true) {
        return Err(Error::unsupported(
            "cpu.realtimeRuntime and cpu.realtimePeriod",
            "cgroup v2 does not limit real-time processes",
        ));
    }
    let mut cpu_file = |file, value| settings.push(Setting::new(Controller::Cpu, file, value));
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        cpu_file("cpu.weight", weight_of_shares(shares).to_string());
    }
    if let Some(idle) = cpu.idle() {
        cpu_file("cpu.idle", idle.to_string());
    }
    if let Some(max) = cpu_max(Bound::asked(cpu.quota()), cpu.period(), current) {
        cpu_file("cpu.max", max);
    }
    if let Some(burst_us) = cpu.burst() {
        cpu_file("cpu.max.burst", burst_us.to_string());
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = value.as_ref().filter(|list| !list.is_empty()) {
            settings.push(Setting::new(Controller::CpuSet, file, list));
        }
    }
    Ok(())
}

/// `quota period`; a quota alone leaves the period as it is, a period alone needs the quota repeated.
fn cpu_max(
    quota: Option<Bound>,
    period_us: Option<u64>,
    current: Option<Bandwidth>,
) -> Option<String> {
    let quota_text = |quota: Bound| quota.text("max");
    match (quota, period_us.filter(|period| *period != 0)) {
        (None, None) => None,
        (Some(quota), None) => Some(quota_text(quota)),
        (quota, Some(period_us)) => {
            let quota = quota.unwrap_or(current.map_or(Bound::Unlimited, |now| now.quota));
            Some(format!("{} {period_us}", quota_text(quota)))
        }
    }
}

fn memory_settings(
    memory: &LinuxMemory,
    current: Option<MemoryState>,
    settings: &mut Vec<Setting>,
) -> Result<(), Error> {
    if memory.swappiness().is_some() {
        return Err(Error::unsupported(
            "memory.swappiness",
            "cgroup v2 has no swappiness per cgroup",
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::unsupported(
            "memory.disableOOMKiller",
            "cgroup v2 always kills",
        ));
    }
    let limit = Bound::asked(memory.limit());
    if memory.check_before_update() == Some(true) {
        check_usage(limit, current)?;
    }
    let mut memory_file =
        |file, value| settings.push(Setting::new(Controller::Memory, file, value));
    if let Some(swap) = swap_max(limit, Bound::asked(memory.swap()), current)? {
        memory_file("memory.swap.max", swap.text("max"));
    }
    if let Some(limit) = limit {
        memory_file("memory.max", limit.text("max"));
    }
    if let Some(reservation) = Bound::asked(memory.reservation()) {
        memory_file("memory.low", reservation.text("max"));
    }
    Ok(())
}

/// Version 1 refuses a limit below the usage; version 2 takes it and kills. `checkBeforeUpdate` asks for
/// the former. A limit that is no lower than the one in force changes nothing about who is killed.
fn check_usage(limit: Option<Bound>, current: Option<MemoryState>) -> Result<(), Error> {
    match (limit, current) {
        (Some(Bound::At(limit)), Some(current))
            if limit < current.usage_bytes && Bound::At(limit) < current.limit =>
        {
            Err(Error::invalid(
                "memory.limit",
                limit,
                format!(
                    "is below the current usage of {} bytes",
                    current.usage_bytes
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// OCI counts memory and swap together, version 2 swap alone. None: stays as it is. As on version 1,
/// unlimited memory makes swap unlimited when nothing is said about it.
fn swap_max(
    limit: Option<Bound>,
    swap: Option<Bound>,
    current: Option<MemoryState>,
) -> Result<Option<Bound>, Error> {
    check_swap(limit, swap)?;
    if current.is_some_and(|current| current.swap.is_none()) {
        check_swap_unaccounted(limit, swap)?;
        return Ok(None);
    }
    let swap = match (swap, limit) {
        (None, Some(Bound::Unlimited)) => Some(Bound::Unlimited),
        _ => swap,
    };
    let in_force = limit.or(current.map(|current| current.limit));
    match (swap, in_force) {
        (None, _) => Ok(None),
        (Some(Bound::Unlimited), _) => Ok(Some(Bound::Unlimited)),
        (Some(Bound::At(total)), Some(Bound::At(memory))) if total >= memory => {
            Ok(Some(Bound::At(total - memory)))
        }
        (Some(Bound::At(total)), _) => Err(Error::invalid(
            "memory.swap",
            total,
            "includes memory.limit, which is larger or unlimited",
        )),
    }
}

fn block_io_settings(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    let mut io_file = |file, value| settings.push(Setting::new(Controller::BlkIo, file, value));
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        io_file("io.weight", weight_of_block_io(weight).to_string());
    }
    for (throttle, device, rate) in Throttles::of(block_io).0 {
        let key = match throttle {
            Throttle::ReadBytes => "rbps",
            Throttle::WriteBytes => "wbps",
            Throttle::ReadOperations => "riops",
            Throttle::WriteOperations => "wiops",
        };
        // Version 1 takes 0 for none.
        let rate = match rate {
            0 => "max".to_owned(),
            rate => rate.to_string(),
        };
        io_file("io.max", format!("{device} {key}={rate}"));
    }
}

/// 10 to 1000 of version 1 → 1 to 10,000 of version 2, linear.
fn weight_of_block_io(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9_999 / 990
}

/// Faults are limited, and reservations too, as on version 1.
fn hugepage_settings(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), Error> {
    for (prefix, limit) in hugepages(resources)? {
        let value = limit.text("max");
        settings.push(Setting::new(
            Controller::HugeTlb,
            format!("{prefix}.max"),
            &value,
        ));
        let reserved = format!("{prefix}.rsvd.max");
        settings.push(Setting::new(Controller::HugeTlb, reserved, &value).or_skip());
    }
    Ok(())
}

/// Files written as they are named, last and in alphabetical order, so that they prevail. A file that
/// takes one line per write (`io.max`) may be given several.
fn unified_settings(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (file, value) in files {
        let controller = controller_of(file)?;
        let lines = value.lines().filter(|line| !line.trim().is_empty());
        settings.extend(lines.map(|line| Setting::new(controller, file.clone(), line)));
    }
    Ok(())
}

/// The controller that a file belongs to. `cgroup.*` files belong to none: they move and kill processes.
fn controller_of(file: &str) -> Result<Controller, Error> {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    file.split_once('.')
        .filter(|(_, rest)| !rest.is_empty() && file.bytes().all(harmless))
        .and_then(|(prefix, _)| Controller::from_name(prefix, Version::V2))
        .ok_or_else(|| Error::invalid("unified", file, "is not a file of a known controller"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, resources};
    use super::*;

    fn plan(json: &str, state: &State) -> Result<Vec<String>, Error> {
        settings(&resources(json), state, |_| true).map(|settings| lines(&settings))
    }

    fn memory(limit: Bound, swap: Option<Bound>) -> State {
        State {
            bandwidth: None,
            memory: Some(MemoryState {
                limit,
                swap,
                usage_bytes: 4096,
            }),
        }
    }

    #[test]
    fn a_containers_limits_become_settings() {
        let json = r#"{
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0-1", "mems": "0"},
            "memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432},
            "pids": {"limit": 100},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "blockIO": {
                "weight": 1000,
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 9}]
            },
            "unified": {"memory.high": "60000000", "io.max": "8:0 rbps=5\n8:16 rbps=6\n"}
        }"#;
        let state = memory(Bound::Unlimited, Some(Bound::Unlimited));
        assert_eq!(
            plan(json, &state).unwrap(),
            [
                "cpu.weight=59",
                "cpu.max=50000 100000",
                "cpu.max.burst=1000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "memory.swap.max=33554432",
                "memory.max=67108864",
                "memory.low=33554432",
                "pids.max=100",
                "io.weight=10000",
                "io.max=8:0 rbps=1000",
                "io.max=8:0 wbps=max",
                "io.max=8:0 wiops=9",
                "hugetlb.2MB.max=4194304",
                "hugetlb.2MB.rsvd.max=4194304",
                "io.max=8:0 rbps=5",
                "io.max=8:16 rbps=6",
                "memory.high=60000000",
            ]
        );
    }

    #[test]
    fn shares_become_weights() {
        let table = [
            (0, 1),
            (2, 1),
            (102, 17),
            (256, 35),
            (512, 59),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, weight) in table {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let weights: Vec<_> = (2..=262_144).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn weights_become_the_most_shares_that_have_them() {
        for weight in [1, 17, 59, 100, 302, 10_000] {
            let shares = shares_of_weight(weight);
            assert_eq!(weight_of_shares(shares), weight);
            assert!(weight == 10_000 || weight_of_shares(shares + 1) > weight);
        }
        let ends = [0, 1, 100, 10_000, u64::MAX].map(shares_of_weight);
        assert_eq!(ends, [2, 2, 1024, 262_144, 262_144]);
    }

    #[test]
    fn cpu_max_keeps_what_is_not_asked_for() {
        let current = Some(Bandwidth {
            quota: Bound::At(5000),
            period_us: 100_000,
        });
        let table = [
            (None, None, None),
            (Some(Bound::At(7000)), None, Some("7000")),
            (Some(Bound::Unlimited), None, Some("max")),
            (None, Some(50_000), Some("5000 50000")),
            (Some(Bound::Unlimited), Some(50_000), Some("max 50000")),
        ];
        for (quota, period, expected) in table {
            assert_eq!(cpu_max(quota, period, current).as_deref(), expected);
        }
    }

    #[test]
    fn swap_is_what_memory_and_swap_leave() {
        use Bound::{At, Unlimited};
        let current = memory(At(100), Some(At(0))).memory;
        let table = [
            (Some(At(100)), Some(At(100)), Some(At(0))),
            (Some(At(100)), Some(At(150)), Some(At(50))),
            (None, Some(At(150)), Some(At(50))),
            (Some(At(50)), Some(Unlimited), Some(Unlimited)),
            (Some(At(50)), None, None),
            (Some(Unlimited), None, Some(Unlimited)),
        ];
        for (limit, swap, expected) in table {
            assert_eq!(swap_max(limit, swap, current).unwrap(), expected);
        }
        for (limit, swap) in [
            (Some(At(100)), At(99)),
            (None, At(99)),
            (Some(Unlimited), At(9)),
        ] {
            let result = swap_max(limit, Some(swap), current);
            assert!(matches!(result, Err(Error::InvalidLimit { .. })));
        }
    }

    #[test]
    fn swap_without_accounting_is_refused_only_when_it_matters() {
        let state = memory(Bound::Unlimited, None);
        let plan = |json| plan(json, &state);
        assert_eq!(
            plan(r#"{"memory": {"limit": 100, "swap": 100}}"#).unwrap(),
            ["memory.max=100"]
        );
        assert!(plan(r#"{"memory": {"limit": 100, "swap": 200}}"#).is_err());
    }

    #[test]
    fn a_limit_below_the_usage_is_refused_when_asked_to() {
        let state = memory(Bound::Unlimited, Some(Bound::Unlimited));
        let error = plan(
            r#"{"memory": {"limit": 100, "checkBeforeUpdate": true}}"#,
            &state,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory.limit: 100 is below the current usage of 4096 bytes"
        );
        assert!(plan(r#"{"memory": {"limit": 100}}"#, &state).is_ok());
    }

    #[test]
    fn unified_reaches_controllers_files_only() {
        for file in [
            "cgroup.procs",
            "cgroup.kill",
            "../memory.max",
            "memory.max/../../x",
            "memory.",
            "memory",
            "name=systemd.x",
            "",
        ] {
            assert!(controller_of(file).is_err(), "{file:?}");
        }
        assert_eq!(controller_of("io.bfq.weight").unwrap(), Controller::BlkIo);
        assert_eq!(
            controller_of("memory.oom.group").unwrap(),
            Controller::Memory
        );
    }

    #[test]
    fn what_version_2_cannot_do_is_refused() {
        for json in [
            r#"{"cpu": {"realtimeRuntime": 1000}}"#,
            r#"{"memory": {"swappiness": 10}}"#,
            r#"{"memory": {"disableOOMKiller": true}}"#,
        ] {
            let result = plan(json, &State::default());
            assert!(matches!(result, Err(Error::Unsupported { .. })), "{json}");
        }
    }
}
