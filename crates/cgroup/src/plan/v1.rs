//! The settings of version 1.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{
    Bandwidth, Bound, MemoryState, Setting, State, Throttle, Throttles, check_swap,
    check_swap_unaccounted, hugepages, pids, refuse_what_nobody_enforces, require,
};
use crate::Error;
use crate::controller::Controller;

/// What applies the limits to a cgroup in that state; `has` says which controllers there are.
pub(crate) fn settings(
    resources: &LinuxResources,
    state: &State,
    has: impl Fn(Controller) -> bool,
) -> Result<Vec<Setting>, Error> {
    refuse_what_nobody_enforces(resources)?;
    if resources.unified().iter().flatten().next().is_some() {
        return Err(Error::unsupported(
            "unified",
            "this host's controllers are on cgroup v1",
        ));
    }
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, state.bandwidth, &mut settings);
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
    require(&settings, has)?;
    Ok(settings)
}

fn cpu_settings(cpu: &LinuxCpu, current: Option<Bandwidth>, settings: &mut Vec<Setting>) {
    let mut cpu_file = |file, value| settings.push(Setting::new(Controller::Cpu, file, value));
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        cpu_file("cpu.shares", shares.to_string());
    }
    if let Some(idle) = cpu.idle() {
        cpu_file("cpu.idle", idle.to_string());
    }
    // The kernel refuses a runtime longer than the period.
    if let Some(period_us) = cpu.realtime_period().filter(|period| *period != 0) {
        cpu_file("cpu.rt_period_us", period_us.to_string());
    }
    if let Some(runtime_us) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        cpu_file("cpu.rt_runtime_us", runtime_us.to_string());
    }
    for (file, value) in bandwidth_order(Bound::asked(cpu.quota()), cpu.period(), current) {
        cpu_file(file, value);
    }
    if let Some(burst_us) = cpu.burst() {
        cpu_file("cpu.cfs_burst_us", burst_us.to_string());
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = value.as_ref().filter(|list| !list.is_empty()) {
            settings.push(Setting::new(Controller::CpuSet, file, list));
        }
    }
}

/// Quota and period are two files, and between the two writes the kernel compares a mixture of old and
/// new with the parent's share of time. Of the two mixtures one is never above both the old and the new
/// share (their product is the product of old and new), so that one is taken.
fn bandwidth_order(
    quota: Option<Bound>,
    period_us: Option<u64>,
    current: Option<Bandwidth>,
) -> Vec<(&'static str, String)> {
    let period_us = period_us.filter(|period| *period != 0);
    let write_quota = quota.map(|quota| ("cpu.cfs_quota_us", quota.text("-1")));
    let write_period = period_us.map(|period| ("cpu.cfs_period_us", period.to_string()));
    let period_first = match (quota, period_us, current) {
        (Some(Bound::At(new_quota)), Some(new_period), Some(current)) => {
            current.quota.value().is_none_or(|old_quota| {
                // old quota / new period <= new quota / old period
                u128::from(old_quota) * u128::from(current.period_us)
                    <= u128::from(new_quota) * u128::from(new_period)
            })
        }
        (Some(Bound::Unlimited), ..) => false,
        _ => true,
    };
    let (first, second) = match period_first {
        true => (write_period, write_quota),
        false => (write_quota, write_period),
    };
    first.into_iter().chain(second).collect()
}

fn memory_settings(
    memory: &LinuxMemory,
    current: Option<MemoryState>,
    settings: &mut Vec<Setting>,
) -> Result<(), Error> {
    let mut memory_file =
        |file, value| settings.push(Setting::new(Controller::Memory, file, value));
    let limit = Bound::asked(memory.limit());
    let swap = Bound::asked(memory.swap());
    for (file, bound) in memory_order(limit, swap, current)? {
        memory_file(file, bound.text("-1"));
    }
    if let Some(reservation) = Bound::asked(memory.reservation()) {
        memory_file("memory.soft_limit_in_bytes", reservation.text("-1"));
    }
    if let Some(swappiness) = memory.swappiness() {
        memory_file("memory.swappiness", swappiness.to_string());
    }
    if let Some(disable) = memory.disable_oom_killer() {
        memory_file("memory.oom_control", u8::from(disable).to_string());
    }
    Ok(())
}

const LIMIT: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// The kernel holds `limit` ≤ `memory and swap` after each single write, so raising starts with the
/// latter and lowering with the former.
///
/// A limit alone that rises above memory-and-swap takes that along, keeping the swap that was allowed;
/// an unlimited one takes it along to unlimited. Otherwise memory-and-swap stays as it is.
fn memory_order(
    limit: Option<Bound>,
    swap: Option<Bound>,
    current: Option<MemoryState>,
) -> Result<Vec<(&'static str, Bound)>, Error> {
    check_swap(limit, swap)?;
    let Some(current) = current else {
        return Ok(limit.map(|limit| (LIMIT, limit)).into_iter().collect());
    };
    let Some(current_swap) = current.swap else {
        check_swap_unaccounted(limit, swap)?;
        return Ok(limit.map(|limit| (LIMIT, limit)).into_iter().collect());
    };
    let swap = swap.or_else(|| carried_along(limit?, current.limit, current_swap));
    let write_limit = limit.map(|limit| (LIMIT, limit));
    let write_swap = swap.map(|swap| (MEMORY_AND_SWAP, swap));
    let (first, second) = match swap {
        Some(swap) if swap >= current.limit => (write_swap, write_limit),
        _ => (write_limit, write_swap),
    };
    Ok(first.into_iter().chain(second).collect())
}

/// The new memory-and-swap when only a limit was asked for and the old one is below it.
fn carried_along(limit: Bound, current_limit: Bound, current_swap: Bound) -> Option<Bound> {
    match (limit, current_limit, current_swap) {
        (_, _, Bound::Unlimited) => None,
        (Bound::Unlimited, ..) => Some(Bound::Unlimited),
        (Bound::At(new), Bound::At(old), Bound::At(old_swap)) if new > old_swap => {
            Some(Bound::At(new.saturating_add(old_swap.saturating_sub(old))))
        }
        _ => None,
    }
}

fn block_io_settings(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        settings.push(Setting::new(Controller::BlkIo, "blkio.bfq.weight", weight));
    }
    for (throttle, device, rate) in Throttles::of(block_io).0 {
        let file = match throttle {
            Throttle::ReadBytes => "blkio.throttle.read_bps_device",
            Throttle::WriteBytes => "blkio.throttle.write_bps_device",
            Throttle::ReadOperations => "blkio.throttle.read_iops_device",
            Throttle::WriteOperations => "blkio.throttle.write_iops_device",
        };
        let value = format!("{device} {rate}");
        settings.push(Setting::new(Controller::BlkIo, file, value));
    }
}

/// Faults are limited, and reservations (`rsvd`, Linux 5.7) too: a process that reserves more than it
/// may fault would be killed by SIGBUS at its first touch, where `mmap` can fail instead.
fn hugepage_settings(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), Error> {
    for (prefix, limit) in hugepages(resources)? {
        let value = limit.text("-1");
        settings.push(Setting::new(
            Controller::HugeTlb,
            format!("{prefix}.limit_in_bytes"),
            &value,
        ));
        let reserved = format!("{prefix}.rsvd.limit_in_bytes");
        settings.push(Setting::new(Controller::HugeTlb, reserved, &value).or_skip());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, resources};
    use super::*;

    const MB: u64 = 1 << 20;

    fn plan(json: &str, state: &State) -> Result<Vec<String>, Error> {
        settings(&resources(json), state, |_| true).map(|settings| lines(&settings))
    }

    #[test]
    fn a_containers_limits_become_settings() {
        let json = r#"{
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
            "memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432},
            "pids": {"limit": 100},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}
        }"#;
        let state = State {
            bandwidth: Some(Bandwidth {
                quota: Bound::Unlimited,
                period_us: 100_000,
            }),
            memory: Some(MemoryState {
                limit: Bound::Unlimited,
                swap: Some(Bound::Unlimited),
                usage_bytes: 0,
            }),
        };
        assert_eq!(
            plan(json, &state).unwrap(),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864",
                "memory.soft_limit_in_bytes=33554432",
                "pids.max=100",
                "blkio.throttle.read_bps_device=8:0 1000",
                "hugetlb.2MB.limit_in_bytes=4194304",
                "hugetlb.2MB.rsvd.limit_in_bytes=4194304",
            ]
        );
    }

    #[test]
    fn what_is_not_asked_for_is_not_written() {
        for json in [
            "{}",
            r#"{"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}}"#,
            r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0}}"#,
        ] {
            assert_eq!(plan(json, &State::default()).unwrap(), [""; 0], "{json}");
        }
        assert_eq!(
            plan(r#"{"pids": {"limit": -1}}"#, &State::default()).unwrap(),
            ["pids.max=max"]
        );
    }

    #[test]
    fn memory_and_swap_are_written_in_an_order_that_the_kernel_takes() {
        use Bound::{At, Unlimited};
        let state = |limit, swap| MemoryState {
            limit,
            swap: Some(swap),
            usage_bytes: 0,
        };
        let small = state(At(64 * MB), At(96 * MB));
        let fresh = state(Unlimited, Unlimited);
        let cases = [
            // Lowering, raising and lifting both.
            (
                Some(At(32 * MB)),
                Some(At(32 * MB)),
                small,
                vec![(LIMIT, At(32 * MB)), (MEMORY_AND_SWAP, At(32 * MB))],
            ),
            (
                Some(At(128 * MB)),
                Some(At(128 * MB)),
                small,
                vec![(MEMORY_AND_SWAP, At(128 * MB)), (LIMIT, At(128 * MB))],
            ),
            (
                Some(At(MB)),
                Some(Unlimited),
                fresh,
                vec![(MEMORY_AND_SWAP, Unlimited), (LIMIT, At(MB))],
            ),
            (
                Some(Unlimited),
                Some(Unlimited),
                small,
                vec![(MEMORY_AND_SWAP, Unlimited), (LIMIT, Unlimited)],
            ),
            // The limit alone: swap stays, or keeps its distance when the kernel would refuse.
            (Some(At(80 * MB)), None, small, vec![(LIMIT, At(80 * MB))]),
            (
                Some(At(128 * MB)),
                None,
                small,
                vec![(MEMORY_AND_SWAP, At(160 * MB)), (LIMIT, At(128 * MB))],
            ),
            (
                Some(Unlimited),
                None,
                small,
                vec![(MEMORY_AND_SWAP, Unlimited), (LIMIT, Unlimited)],
            ),
            (Some(At(MB)), None, fresh, vec![(LIMIT, At(MB))]),
            (
                None,
                Some(At(70 * MB)),
                small,
                vec![(MEMORY_AND_SWAP, At(70 * MB))],
            ),
            (None, None, small, vec![]),
        ];
        for (limit, swap, current, order) in cases {
            let settings = memory_order(limit, swap, Some(current)).unwrap();
            assert_eq!(settings, order, "{limit:?} {swap:?} {current:?}");
        }
        assert!(memory_order(Some(At(MB)), Some(At(1)), Some(fresh)).is_err());
        assert!(memory_order(Some(Unlimited), Some(At(1)), Some(fresh)).is_err());
    }

    #[test]
    fn swap_without_accounting_is_refused_only_when_it_matters() {
        use Bound::{At, Unlimited};
        let current = Some(MemoryState {
            limit: Unlimited,
            swap: None,
            usage_bytes: 0,
        });
        let limit = Some(At(MB));
        for swap in [None, Some(Unlimited), limit] {
            assert_eq!(
                memory_order(limit, swap, current).unwrap(),
                [(LIMIT, At(MB))]
            );
        }
        let result = memory_order(limit, Some(At(2 * MB)), current);
        assert!(matches!(result, Err(Error::Unsupported { .. })));
    }

    #[test]
    fn quota_and_period_never_ask_for_more_than_old_and_new() {
        let current = |quota, period_us| Some(Bandwidth { quota, period_us });
        let first = |quota, period, current| {
            bandwidth_order(Some(quota), Some(period), current)
                .first()
                .map(|(file, _)| *file)
        };
        let table = [
            (
                Bound::At(50_000),
                100_000,
                current(Bound::Unlimited, 100_000),
                "cpu.cfs_period_us",
            ),
            (
                Bound::At(50_000),
                10_000,
                current(Bound::At(50_000), 100_000),
                "cpu.cfs_quota_us",
            ),
            (
                Bound::At(5_000),
                10_000,
                current(Bound::At(200_000), 100_000),
                "cpu.cfs_quota_us",
            ),
            (
                Bound::At(500_000),
                1_000_000,
                current(Bound::At(5_000), 10_000),
                "cpu.cfs_period_us",
            ),
            (
                Bound::Unlimited,
                10_000,
                current(Bound::At(5_000), 100_000),
                "cpu.cfs_quota_us",
            ),
        ];
        for (quota, period, current, file) in table {
            assert_eq!(
                first(quota, period, current),
                Some(file),
                "{quota:?}/{period} after {current:?}"
            );
        }
    }

    #[test]
    fn missing_controllers_are_named() {
        let all_but_pids = |controller| controller != Controller::Pids;
        let error = settings(
            &resources(r#"{"pids": {"limit": 5}}"#),
            &State::default(),
            all_but_pids,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "pids.max cannot be enforced: this host has no pids controller"
        );
        let no_huge = settings(
            &resources(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#),
            &State::default(),
            |controller| controller != Controller::HugeTlb,
        );
        assert_eq!(no_huge.unwrap(), []);
    }

    #[test]
    fn unified_needs_version_2() {
        let result = plan(r#"{"unified": {"memory.high": "1"}}"#, &State::default());
        assert!(matches!(result, Err(Error::Unsupported { .. })));
    }
}
