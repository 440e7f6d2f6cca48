//! Processes that are counted, frozen and killed, and those that fork meanwhile.

use std::thread;
use std::time::Duration;

use crisp_cgroup::Version;

use crate::harness::{Bound, Scratch, Shell, apply, cpu_usage, stats, tasks, until};

#[test]
fn privileged_forks_beyond_the_limit_fail() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    apply(&cgroup, r#"{"pids": {"limit": 8}}"#).unwrap();
    let many = "i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i+1)); done";
    assert!(!Shell::succeeds(&cgroup, many), "dash gives up at EAGAIN");
    let pids = stats(&cgroup).pids.expect("pids figures");
    assert!((5..=8).contains(&pids.current), "{pids:?}");
    assert_eq!(pids.max, Some(8));
    assert_eq!(cgroup.pids().unwrap().len() as u64, pids.current);
}

/// Goes on when `fork` fails, and goes on forking while it is killed.
const BOMB: &str = "exec perl -e 'fork while 1'";

fn fork_bomb_is_killed(scratch: &Scratch) {
    let cgroup = scratch.child("container");
    apply(&cgroup, r#"{"pids": {"limit": 200}}"#).unwrap();
    let _shell = Shell::start(&cgroup, BOMB);
    until("the bomb goes off", || tasks(&cgroup) == 200);
    scratch.cgroup.kill().unwrap();
    assert_eq!(scratch.cgroup.pids().unwrap(), [0; 0]);
    assert_eq!(cgroup.limits().unwrap().pids_max, Some(200));
}

#[test]
fn privileged_fork_bomb_is_killed() {
    fork_bomb_is_killed(&Scratch::on_this_host());
}

#[test]
fn privileged_fork_bomb_is_killed_without_cgroup_kill() {
    let Some(host) = Bound::new(&["pids", "freezer"]) else {
        eprintln!(
            "skipped: this host has cgroup.kill for all its processes, as it has no cgroup v1"
        );
        return;
    };
    fork_bomb_is_killed(&Scratch::new(host.hierarchies()));
}

#[test]
fn privileged_fork_bomb_is_killed_on_version_2() {
    let limit = Scratch::on_this_host();
    if limit.hierarchies.version() == Version::V2 {
        eprintln!(
            "skipped: there is one hierarchy, in which a process is limited where it is killed"
        );
        return;
    }
    apply(&limit.cgroup, r#"{"pids": {"limit": 200}}"#).unwrap();
    let scratch = Scratch::on_version_2();
    let cgroup = scratch.child("container");
    // Version 2 last: of the two cgroups in that hierarchy the one to be killed holds it.
    let shell = Shell::start_in([limit.cgroup.dirs(), cgroup.dirs()].concat(), BOMB);
    until("the bomb goes off", || tasks(&limit.cgroup) == 200);
    scratch.cgroup.kill().unwrap();
    assert_eq!(scratch.cgroup.pids().unwrap(), [0; 0]);
    drop(shell);
    until("the dead are reaped", || tasks(&limit.cgroup) == 0);
}

#[test]
fn privileged_frozen_processes_are_killed_without_cgroup_kill() {
    let Some(host) = Bound::new(&["pids", "freezer"]) else {
        eprintln!(
            "skipped: this host has cgroup.kill for all its processes, as it has no cgroup v1"
        );
        return;
    };
    let scratch = Scratch::new(host.hierarchies());
    let cgroup = scratch.child("container");
    let _shell = Shell::burn(&cgroup);
    until("it runs", || cgroup.pids().unwrap().len() == 1);
    cgroup.freeze().unwrap();
    scratch.cgroup.kill().unwrap();
    assert_eq!(cgroup.pids().unwrap(), [0; 0]);
}

fn frozen_processes_stand_still(scratch: &Scratch) {
    let cgroup = scratch.child("container");
    let _burner = Shell::burn(&cgroup);
    until("it runs", || !cpu_usage(&cgroup).is_zero());
    scratch.cgroup.freeze().unwrap();
    let frozen_at = cpu_usage(&cgroup);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(cpu_usage(&cgroup), frozen_at);
    scratch.cgroup.thaw().unwrap();
    until("it goes on", || cpu_usage(&cgroup) > frozen_at);
}

#[test]
fn privileged_frozen_processes_stand_still() {
    frozen_processes_stand_still(&Scratch::on_this_host());
}

#[test]
fn privileged_frozen_processes_stand_still_on_version_2() {
    frozen_processes_stand_still(&Scratch::on_version_2());
}
