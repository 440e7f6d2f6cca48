//! What an idle pod costs.

use crate::harness::*;
use std::fs;

/// Fields of proc_pid_smaps_rollup in KiB.
fn memory_kib(pid: u32, field: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn privileged_idle_shims_and_pauses_are_small() {
    const PODS: usize = 16;
    const SHIM_OWN_MAX_KIB: u64 = 84;
    // Of its stack.
    const PAUSE_OWN_MAX_KIB: u64 = 16;
    let mut pods: Vec<Pod> = (0..PODS)
        .map(|number| Pod::start(&format!("memory-{number}"), usual_pod()))
        .collect();
    for pod in &mut pods {
        pod.run(pod.container("c1", "yes | head -c 1000000; exec sleep 1000"));
        until("the log", || pod.log("c1").lines().count() == 500_000);
        assert_eq!(pod.output("c1", "echo exec"), "exec\n");
    }
    for pod in &pods {
        let shim = u32::try_from(pod.shim.as_raw()).unwrap();
        for (name, pid, max) in [
            ("shim", shim, SHIM_OWN_MAX_KIB),
            ("pause", pod.pause, PAUSE_OWN_MAX_KIB),
        ] {
            let (pss, own) = (memory_kib(pid, "Pss:"), memory_kib(pid, "Anonymous:"));
            eprintln!("{name}: {pss} KiB PSS with {PODS} pods, {own} KiB of it its own");
            assert!(own <= max, "{name}: {own} KiB");
        }
    }
    pods.into_iter().for_each(Pod::finish);
}
