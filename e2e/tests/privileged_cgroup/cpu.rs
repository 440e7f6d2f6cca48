//! Quotas, bursts and shares of processors.

use std::time::Duration;

use crisp_cgroup::{CpuStats, Version};

use crate::harness::{Scratch, Shell, apply, cpu_usage, stats, until};

#[test]
fn privileged_quota_holds_a_busy_process_down() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    apply(&cgroup, r#"{"cpu": {"quota": 5000, "period": 50000}}"#).unwrap();
    let _burner = Shell::burn(&cgroup);
    let cpu = || stats(&cgroup).cpu.expect("cpu figures");
    // A machine that stands still has many of them end at once, and tells the time a little later.
    let twenty = |cpu: CpuStats| cpu.throttled_periods >= Some(20) && cpu.throttled_ns > Some(0);
    until("the quota runs out", || twenty(cpu()));
    let cpu = cpu();
    assert!(cpu.periods >= cpu.throttled_periods, "{cpu:?}");
    // A tenth of one cpu: 5 ms in each period, and as much again for what the kernel gives away.
    let periods = cpu.periods.expect("periods are counted");
    assert!(cpu.usage_ns < (periods + 1) * 10_000_000, "{cpu:?}");
}

#[test]
fn privileged_burst_is_what_an_idle_process_has_saved() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    apply(
        &cgroup,
        r#"{"cpu": {"quota": 50000, "period": 100000, "burst": 40000}}"#,
    )
    .unwrap();
    let file = match scratch.hierarchies.version() {
        Version::V1 => "cpu.cfs_burst_us",
        Version::V2 => "cpu.max.burst",
    };
    let dirs = || cgroup.dirs().into_iter().map(crisp_e2e::Cgroup);
    let set = dirs().find_map(|dir| dir.read(file).ok());
    assert_eq!(set.as_deref(), Some("40000"));
    // Works for longer than one period's quota, on a quick processor too, and rests.
    let script = "while :; do i=0; while [ $i -lt 600000 ]; do i=$((i + 1)); done; sleep 0.5; done";
    let _saver = Shell::start(&cgroup, script);
    let bursts = || dirs().find_map(|dir| dir.read_key("cpu.stat", "nr_bursts").ok());
    until("it takes more than its quota in one period", || {
        bursts().is_some_and(|count| count > 0)
    });
}

#[test]
fn privileged_shares_divide_one_cpu_as_they_are_weighed() {
    let scratch = Scratch::on_this_host();
    let wanted = match scratch.hierarchies.version() {
        Version::V1 => 4.0,
        // Weights of 302 and 100.
        Version::V2 => 3.02,
    };
    let small = scratch.child("small");
    let large = scratch.child("large");
    apply(&small, r#"{"cpu": {"shares": 1024, "cpus": "0"}}"#).unwrap();
    apply(&large, r#"{"cpu": {"shares": 4096, "cpus": "0"}}"#).unwrap();
    let _burners = [Shell::burn(&small), Shell::burn(&large)];
    until("both run", || {
        !cpu_usage(&small).is_zero() && !cpu_usage(&large).is_zero()
    });
    let (small_before, large_before) = (cpu_usage(&small), cpu_usage(&large));
    until("two seconds are used", || {
        cpu_usage(&large) - large_before > Duration::from_secs(2)
    });
    let used = |cgroup, before: Duration| (cpu_usage(cgroup) - before).as_secs_f64();
    let ratio = used(&large, large_before) / used(&small, small_before);
    assert!((0.8..1.25).contains(&(ratio / wanted)), "1:{ratio}");
}
