//! Devices that may be opened, and those that may not.

use crate::harness::{Scratch, Shell, apply};

fn devices_are_limited(scratch: &Scratch) {
    let cgroup = scratch.child("container");
    let rules = |more: &str| {
        format!(
            r#"{{"devices": [
                {{"allow": false}},
                {{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}},
                {{"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}}
                {more}
            ]}}"#
        )
    };
    let can = |script: &str| Shell::succeeds(&cgroup, script);
    assert!(can("head -c 1 /dev/full"));
    apply(&cgroup, &rules("")).unwrap();
    assert!(can("echo x > /dev/null"));
    assert!(can("head -c 1 /dev/zero"));
    assert!(!can("echo x > /dev/zero"));
    assert!(!can("head -c 1 /dev/full"));
    // New rules replace the old, in both directions.
    let full = r#",{"allow": true, "type": "c", "major": 1, "minor": 7}"#;
    apply(&cgroup, &rules(full)).unwrap();
    assert!(can("head -c 1 /dev/full"));
    assert!(!can("echo x > /dev/zero"));
    apply(&cgroup, &rules("")).unwrap();
    assert!(!can("head -c 1 /dev/full"));
    apply(&cgroup, r#"{"pids": null}"#).unwrap();
    assert!(!can("head -c 1 /dev/full"));
}

#[test]
fn privileged_devices_are_limited() {
    devices_are_limited(&Scratch::on_this_host());
}

#[test]
fn privileged_devices_are_limited_on_version_2() {
    devices_are_limited(&Scratch::on_version_2());
}
