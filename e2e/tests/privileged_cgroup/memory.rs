//! Memory that is held, and beyond the limit.

use crate::harness::{MIB, Scratch, Shell, apply, stats, until};

#[test]
fn privileged_memory_beyond_the_limit_is_killed_and_counted() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    apply(
        &cgroup,
        r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#,
    )
    .unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    let shell = Shell::hold(&cgroup, 64 * MIB);
    until("a kill is counted", || cgroup.oom_kills().unwrap() > 0);
    drop(shell);
    let memory = stats(&cgroup).memory.expect("memory figures");
    assert_eq!(memory.oom_kills, Some(cgroup.oom_kills().unwrap()));
    assert_eq!(memory.limit_bytes, Some(16 * MIB));
    assert!(
        memory.max_usage_bytes.is_none_or(|max| max <= 16 * MIB),
        "{memory:?}"
    );
    // The pod's count includes its containers'.
    assert_eq!(scratch.cgroup.oom_kills().ok(), memory.oom_kills);
}

#[test]
fn privileged_memory_that_is_held_shows_in_the_figures() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    let _holder = Shell::hold(&cgroup, 24 * MIB);
    let memory = || stats(&cgroup).memory.expect("memory figures");
    until("the memory is used", || memory().rss_bytes >= 24 * MIB);
    let memory = memory();
    assert!(memory.working_set_bytes >= 24 * MIB, "{memory:?}");
    assert!(memory.usage_bytes >= memory.working_set_bytes, "{memory:?}");
    assert!(memory.page_faults > 24 * MIB / 65_536, "{memory:?}");
    let pod = stats(&scratch.cgroup).memory.expect("memory figures");
    assert!(pod.rss_bytes >= 24 * MIB, "{pod:?}");
}

#[test]
fn privileged_a_limit_above_is_not_the_cgroups_own() {
    let scratch = Scratch::on_this_host();
    let container = scratch.child("container");
    let limit = |cgroup| stats(cgroup).memory.expect("memory figures").limit_bytes;
    assert_eq!(limit(&container), None);
    apply(&scratch.cgroup, r#"{"memory": {"limit": 33554432}}"#).unwrap();
    assert_eq!(limit(&scratch.cgroup), Some(32 * MIB));
    assert_eq!(limit(&container), None);
    apply(&container, r#"{"memory": {"limit": 16777216}}"#).unwrap();
    assert_eq!(limit(&container), Some(16 * MIB));
}
