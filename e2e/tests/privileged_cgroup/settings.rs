//! Limits as they are set, changed, refused and read back.

use std::fs;

use crisp_cgroup::{Controller, Error, Extent, Version};

use crate::harness::{MIB, Scratch, Shell, apply, memory_usage, stats, until};

#[test]
fn privileged_limits_are_in_force_and_survive_partial_updates() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    apply(
        &cgroup,
        r#"{
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432},
            "pids": {"limit": 77}
        }"#,
    )
    .unwrap();
    let limits = cgroup.limits().unwrap();
    assert!(limits.cpu_shares == Some(512) || limits.cpu_weight == Some(59));
    assert_eq!(limits.cpu_quota_us, Some(50_000));
    assert_eq!(limits.cpu_period_us, Some(100_000));
    assert_eq!(limits.cpuset_cpus.as_deref(), Some("0"));
    assert_eq!(limits.memory_limit_bytes, Some(64 * MIB));
    assert_eq!(limits.memory_swap_limit_bytes, Some(64 * MIB));
    assert_eq!(limits.memory_reservation_bytes, Some(32 * MIB));
    assert_eq!(limits.pids_max, Some(77));

    apply(&cgroup, r#"{"cpu": {"quota": 20000}}"#).unwrap();
    apply(
        &cgroup,
        r#"{"memory": {"limit": 134217728, "swap": 134217728}}"#,
    )
    .unwrap();
    let raised = cgroup.limits().unwrap();
    assert_eq!(raised.memory_limit_bytes, Some(128 * MIB));
    assert_eq!(raised.memory_swap_limit_bytes, Some(128 * MIB));
    assert_eq!(raised.cpu_quota_us, Some(20_000));
    assert_eq!(raised.cpu_shares, limits.cpu_shares);
    assert_eq!(raised.cpu_weight, limits.cpu_weight);
    assert_eq!(raised.pids_max, Some(77));

    apply(
        &cgroup,
        r#"{"memory": {"limit": 33554432, "swap": 50331648}}"#,
    )
    .unwrap();
    let lowered = cgroup.limits().unwrap();
    assert_eq!(lowered.memory_limit_bytes, Some(32 * MIB));
    assert_eq!(lowered.memory_swap_limit_bytes, Some(48 * MIB));

    apply(
        &cgroup,
        r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1}}"#,
    )
    .unwrap();
    let lifted = cgroup.limits().unwrap();
    assert_eq!(lifted.cpu_quota_us, None);
    assert_eq!(lifted.memory_limit_bytes, None);
    assert_eq!(lifted.memory_swap_limit_bytes, None);
    assert_eq!(lifted.pids_max, None);
}

#[test]
fn privileged_refused_limits_name_file_value_and_reason() {
    let scratch = Scratch::on_this_host();
    let pod = &scratch.cgroup;
    apply(
        pod,
        r#"{"cpu": {"quota": 50000, "period": 100000, "cpus": "0"}}"#,
    )
    .unwrap();
    let container = scratch.child("container");
    let holder = Shell::hold(&container, 32 * MIB);
    until("the memory is used", || memory_usage(&container) > 32 * MIB);

    let memory = (
        r#"{"memory": {"limit": 4096, "checkBeforeUpdate": true}}"#,
        "memory",
        "4096 is below the current usage of",
    );
    // Version 2 takes these, and gives what the parent has.
    let beyond_the_parent = [
        (
            r#"{"cpu": {"quota": 100000, "period": 100000}}"#,
            "cpu.",
            "100000 is more than the parent cgroup has",
        ),
        (
            r#"{"cpu": {"cpus": "0-4095"}}"#,
            "cpuset.cpus",
            "0-4095 is not a list within what the parent cgroup has (0)",
        ),
    ];
    let refused_by_kernel = match scratch.hierarchies.version() {
        Version::V1 => &beyond_the_parent[..],
        Version::V2 => &[],
    };
    for (json, file, reason) in refused_by_kernel.iter().chain([&memory]) {
        let error = apply(&container, json).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(reason), "{error}");
    }
    drop(holder);

    let missing = scratch.hierarchies.open(&pod.path().join("none").unwrap());
    let error = apply(&missing, r#"{"pids": {"limit": 5}}"#).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(matches!(
        missing.stats(Extent::Usage),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(missing.limits(), Err(Error::NotFound { .. })));
}

#[test]
fn privileged_hugepage_limits_are_in_force_on_version_2() {
    let scratch = Scratch::on_version_2();
    let cgroup = scratch.child("container");
    let limit = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#;
    apply(&cgroup, limit).unwrap();
    // Hosts whose hugetlb controller is on version 1, or nowhere, skip the limit, and have no file.
    let file = cgroup.dirs()[0].join("hugetlb.2MB.max");
    let in_force = fs::read_to_string(file).ok();
    let expected = scratch.hierarchies.has(Controller::HugeTlb);
    assert_eq!(in_force.as_deref(), expected.then_some("4194304\n"));
    assert_eq!(stats(&cgroup).hugetlb.is_empty(), !expected);
}
