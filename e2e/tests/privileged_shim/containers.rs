//! Containers: their start, their signals and their end.

use crate::harness::*;
use crisp_shim_api::ExitRecord;
use crisp_shim_api::message::{List, RemoveContainer, Signal, StartPod, failure, reply, request};
use crisp_sys::mount::{Recursion, clone_mount};
use serde_json::json;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

#[test]
fn privileged_container_output_is_logged_and_its_exit_recorded() {
    let mut pod = Pod::start("output", usual_pod());
    let start = pod.container("c1", "echo out; echo err >&2; echo -n unfinished; exit 3");
    let pid = pod.run(start.clone());
    let exit = pod.daemon.exit_of("c1", "");
    assert_eq!(
        (exit.code, exit.signal, exit.pid, exit.oom_killed),
        (3, 0, pid, false)
    );
    assert_eq!(
        ExitRecord::read(&pod.paths.exits(), "c1").unwrap(),
        Some(exit.clone())
    );
    let mut lines = pod.log_lines("c1");
    lines.sort();
    assert_eq!(
        lines,
        ["stderr F err", "stdout F out", "stdout P unfinished"]
    );
    let (reply, _) = pod.daemon.ask(request::Body::List(List {}));
    let reply::Body::Processes(list) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(list.processes[0].exit, Some(exit));
    // Who asks after a daemon has died may find that it has ended by then.
    assert_eq!(pod.run(start), pid);
    let remove = RemoveContainer {
        container_id: "c1".to_owned(),
    };
    pod.daemon
        .expect_done(request::Body::RemoveContainer(remove.clone()));
    assert_eq!(ExitRecord::read_all(&pod.paths.exits()).unwrap(), []);
    let failure = pod
        .daemon
        .expect_failure(request::Body::RemoveContainer(remove));
    assert_eq!(failure.kind(), failure::Kind::NotFound);
    pod.finish();
}

#[test]
fn privileged_start_of_what_cannot_be_executed_is_told() {
    let mut pod = Pod::start("not-executable", usual_pod());
    let start = pod.container_with("c1", &["/bin/nope"], false);
    let failure = pod
        .daemon
        .expect_failure(request::Body::StartContainer(start));
    assert_eq!(failure.kind(), failure::Kind::NotExecutable, "{failure:?}");
    assert!(failure.message.contains("/bin/nope"), "{failure:?}");
    pod.run(pod.container("c2", "sleep 1000"));
    let mut exec = Pod::exec_request("c2", "e1", "");
    exec.process_json =
        br#"{"args":["nope"],"cwd":"/","user":{"uid":0,"gid":0},"env":["PATH=/bin"]}"#.to_vec();
    let failure = pod.daemon.expect_failure(request::Body::Exec(exec));
    assert_eq!(failure.kind(), failure::Kind::NotExecutable, "{failure:?}");
    let (reply, _) = pod.daemon.ask(request::Body::List(List {}));
    let reply::Body::Processes(list) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(list.processes.len(), 1);
    until("the failed starts to be reaped", || {
        zombies(&pod).is_empty()
    });
    pod.finish();
}

#[test]
fn privileged_root_file_system_comes_with_the_request_or_is_refused() {
    let mut pod = Pod::start("root-comes", usual_pod());
    let mut start = pod.container("c1", "echo $(cat /came); sleep 1000");
    start.rootfs_comes = true;
    let failure = pod
        .daemon
        .expect_failure(request::Body::StartContainer(start.clone()));
    assert_eq!(failure.kind(), failure::Kind::Invalid, "{failure:?}");
    let usual = Path::new(&start.bundle_dir).join("rootfs");
    let root = clone_mount(&usual, Recursion::This).unwrap();
    fs::write(usual.join("came"), "yes").unwrap();
    // Nobody looks for what the bundle names.
    let config = Path::new(&start.bundle_dir).join("config.json");
    let spec = fs::read_to_string(&config).unwrap();
    let elsewhere = spec.replace("rootfs", "nowhere");
    assert_ne!(elsewhere, spec);
    fs::write(&config, elsewhere).unwrap();
    let body = request::Body::StartContainer(start);
    let (reply, _) = pod.daemon.ask_with(body, &[root.as_fd()]);
    assert!(
        matches!(reply, reply::Body::ContainerStarted(_)),
        "{reply:?}"
    );
    until("the root to be read", || {
        pod.log_lines("c1") == ["stdout F yes"]
    });
    pod.finish();
}

/// In the pod's shared pid namespace, where the kernel does not end the rest by itself.
#[test]
fn privileged_end_of_a_container_is_the_end_of_all_it_started() {
    let shared = StartPod {
        new_pid: true,
        ..usual_pod()
    };
    let mut pod = Pod::start("orphans", shared);
    for unified in [false, true] {
        let id = format!("c-{unified}");
        let script = "(setsid sleep 2000 &) ; (sleep 2000 & exit); echo up; exit 0";
        let mut start = pod.container(&id, script);
        start
            .cgroup_dirs
            .retain(|dir| dir.contains("/unified/") == unified);
        if start.cgroup_dirs.is_empty() {
            continue;
        }
        let config = pod.dir.path().join(&id).join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        let mut spec: serde_json::Value = serde_json::from_str(&text).unwrap();
        spec["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{}/ns/pid", pod.pause));
        fs::write(&config, spec.to_string()).unwrap();
        pod.run(start);
        assert_eq!(pod.daemon.exit_of(&id, "").code, 0);
        let pause = i32::try_from(pod.pause).unwrap();
        let runs = |pid: &i32| stat_fields(*pid).is_some_and(|fields| fields[0] != "Z");
        let left: Vec<i32> = pod.processes().into_iter().filter(runs).collect();
        assert_eq!(left, [pause]);
        until("orphans to be reaped", || zombies(&pod).is_empty());
    }
    pod.finish();
}

#[test]
fn privileged_signals_reach_whom_they_are_for() {
    let mut pod = Pod::start("signals", usual_pod());
    pod.run(pod.container("c1", "trap 'exit 9' TERM; while :; do sleep 0.01; done"));
    let signal = |id: &str, signal| {
        request::Body::Signal(Signal {
            container_id: id.to_owned(),
            signal,
            ..Signal::default()
        })
    };
    let failure = pod.daemon.expect_failure(signal("c1", 1000));
    assert_eq!(failure.kind(), failure::Kind::Invalid);
    std::thread::sleep(Duration::from_millis(100));
    pod.daemon.expect_done(signal("c1", 15));
    assert_eq!(pod.daemon.exit_of("c1", "").code, 9);
    let failure = pod.daemon.expect_failure(signal("c1", 15));
    assert_eq!(failure.kind(), failure::Kind::NotRunning);
    pod.run(pod.container("c2", "sleep 1000"));
    pod.daemon.expect_done(signal("c2", 9));
    assert_eq!(pod.daemon.exit_of("c2", "").signal, 9);
    pod.finish();
}

#[test]
fn privileged_oom_kill_is_told() {
    let mut pod = Pod::start("oom", usual_pod());
    let start = pod.container(
        "c1",
        "cat /dev/zero | head -c 100000000 | busybox tail; exit 1",
    );
    for dir in &start.cgroup_dirs {
        for file in ["memory.limit_in_bytes", "memory.max"] {
            if Path::new(dir).join(file).exists() {
                fs::write(Path::new(dir).join(file), "16777216").unwrap();
            }
        }
    }
    pod.run(start);
    let exit = pod.daemon.exit_of("c1", "");
    assert!(exit.oom_killed, "{exit:?}");
    pod.finish();
}
