//! Cgroups that are made and removed, alone and beside each other.

use std::fs;
use std::path::PathBuf;
use std::thread;

use crisp_cgroup::Error;

use crate::harness::{Scratch, Shell, until};

#[test]
fn privileged_removal_leaves_nothing_in_any_hierarchy() {
    let scratch = Scratch::on_this_host();
    let pod = scratch.child("pod");
    let container = pod.path().join("container").unwrap();
    let nested = container.join("a").unwrap().join("b").unwrap();
    scratch.hierarchies.create(&nested).unwrap();
    let container = scratch.hierarchies.open(&container);
    let nested = scratch.hierarchies.open(&nested);
    let _shell = Shell::burn(&nested);
    until("it has joined all", || {
        let has_joined = |dir: &PathBuf| !fs::read(dir.join("cgroup.procs")).unwrap().is_empty();
        nested.dirs().iter().all(has_joined)
    });
    assert!(!pod.remove_if_empty().unwrap());
    assert_eq!(container.pids().unwrap().len(), 1);
    assert!(matches!(pod.remove(), Err(Error::Busy { .. })));
    pod.kill().unwrap();
    pod.remove().unwrap();
    pod.remove().unwrap();
    assert!(!pod.exists());
    for dir in pod.dirs() {
        assert!(!dir.exists(), "{}", dir.display());
    }
    assert!(scratch.cgroup.remove_if_unused().unwrap());
}

#[test]
fn privileged_pods_are_made_and_removed_side_by_side() {
    let scratch = Scratch::on_this_host();
    let parent = scratch.cgroup.path().join("shared").unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let (parent, hierarchies) = (&parent, &scratch.hierarchies);
            scope.spawn(move || {
                for round in 0..10 {
                    let pod = parent.join(&format!("pod-{number}-{round}")).unwrap();
                    let container = pod.join("container").unwrap();
                    let container = hierarchies.create(&container).unwrap();
                    assert!(Shell::succeeds(&container, ":"));
                    hierarchies.open(&pod).remove().unwrap();
                }
            });
        }
    });
    assert!(
        scratch
            .hierarchies
            .open(&parent)
            .remove_if_unused()
            .unwrap()
    );
}
