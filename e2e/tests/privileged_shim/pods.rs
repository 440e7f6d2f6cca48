//! The pause process and the namespaces that it holds.

use crate::harness::*;
use crisp_shim_api::message::{StartPod, event, failure, reply, request};
use crisp_shim_api::{ConnectError, ShimPid, connect, listen};
use crisp_sys::mount::clones_detached;
use nix::sys::signal::kill;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[test]
fn privileged_pause_holds_namespaces_and_has_nothing_else() {
    let config = StartPod {
        new_pid: true,
        sysctls: [(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "7".to_owned(),
        )]
        .into(),
        ..usual_pod()
    };
    let pod = Pod::start("pause", config);
    let proc = PathBuf::from(format!("/proc/{}", pod.pause));
    for kind in ["net", "ipc", "uts", "mnt", "pid"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{kind}");
    }
    let inside = fs::read_dir(proc.join("root")).unwrap();
    let inside: Vec<_> = inside.map(|entry| entry.unwrap().file_name()).collect();
    // Before Linux 6.15 pause keeps the pod's /dev/shm there.
    assert!(inside.is_empty() || inside == ["shm"], "{inside:?}");
    assert!(File::create(proc.join("root/x")).is_err());
    // Its program is the last that it gets, and is not waited for.
    let name = || fs::read_to_string(proc.join("comm")).unwrap();
    until("pause goes by its name", || name() == "pause\n");
    let status = fs::read_to_string(proc.join("status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            status.contains(&format!("{set}:\t0000000000000000")),
            "{status}"
        );
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let shim = ShimPid::read(&pod.paths).unwrap().expect("a shim runs");
    let name = fs::read_to_string(format!("/proc/{}/comm", shim.pid())).unwrap();
    assert_eq!(name, "crisp-shim\n");
    for fd in fs::read_dir(proc.join("fd")).unwrap() {
        assert_eq!(
            fs::read_link(fd.unwrap().path()).unwrap(),
            Path::new("/dev/null")
        );
    }
    let cgroup = fs::read_to_string(proc.join("cgroup")).unwrap();
    assert!(cgroup.contains(&format!("{}/pause", pod.name)), "{cgroup}");
    pod.finish();
}

#[test]
fn privileged_pods_share_the_mount_namespace_of_the_first_ones_pause() {
    let mut first = Pod::start("lends", usual_pod());
    let Some(mounts) = first.lent_mounts.take() else {
        assert!(!clones_detached(), "none is lent");
        return first.finish();
    };
    let mut second = Pod::start_in("borrows", usual_pod(), Some(mounts.as_fd()));
    let of = |pause: u32| fs::read_link(format!("/proc/{pause}/ns/mnt")).unwrap();
    assert_eq!(of(first.pause), of(second.pause));
    assert!(second.lent_mounts.is_none());
    first.finish();
    // Containers have their own, of which the empty root below theirs shows nothing.
    let start = second.container("c1", "cat /proc/self/mountinfo");
    second.run(start);
    second.daemon.exit_of("c1", "");
    let mounts = second.log_lines("c1");
    // After `stdout F` come the fields of proc_pid_mountinfo(5).
    let place = |line: &String| line.split(' ').nth(6).map(str::to_owned);
    let roots = mounts.iter().filter_map(place).filter(|place| place == "/");
    assert_eq!(roots.count(), 1, "{mounts:#?}");
    let inside = fs::read_dir(format!("/proc/{}/root", second.pause)).unwrap();
    assert_eq!(inside.count(), 0);
    second.finish();
}

#[test]
fn privileged_pod_settings_show_in_its_containers() {
    let config = StartPod {
        sysctls: [(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "7".to_owned(),
        )]
        .into(),
        ..usual_pod()
    };
    let mut pod = Pod::start("settings", config);
    pod.run(pod.container("c1", "sleep 1000"));
    assert_eq!(pod.output("c1", "hostname"), "pod-1\n");
    let sysctl = pod.output("c1", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    assert_eq!(sysctl, "7\n");
    pod.run(pod.container("c2", "echo shared > /dev/shm/x; sleep 1000"));
    until("the file in /dev/shm", || {
        pod.output("c1", "cat /dev/shm/x") == "shared\n"
    });
    pod.finish();
}

#[test]
fn privileged_pod_is_refused_what_reaches_the_host() {
    let mut pod = Pod::without_pause("refused");
    for sysctl in [
        "kernel.core_pattern",
        "net/../kernel/core_pattern",
        "vm.swappiness",
    ] {
        let sysctls = [(sysctl.to_owned(), "1".to_owned())].into();
        let failure = pod.daemon.expect_failure(request::Body::StartPod(StartPod {
            sysctls,
            ..usual_pod()
        }));
        assert_eq!(failure.kind(), failure::Kind::Invalid, "{failure:?}");
    }
    let cgroup_dirs = vec!["/sys/fs/cgroup/nonexistent".to_owned()];
    let failure = pod.daemon.expect_failure(request::Body::StartPod(StartPod {
        cgroup_dirs,
        ..usual_pod()
    }));
    assert!(
        failure.message.contains("/sys/fs/cgroup/nonexistent"),
        "{failure:?}"
    );
    let (started, fds) = pod.daemon.ask(request::Body::StartPod(usual_pod()));
    let again = pod.daemon.ask(request::Body::StartPod(usual_pod()));
    assert_eq!((again.0, again.1.len()), (started, fds.len()));
    pod.finish();
}

#[test]
fn privileged_pod_in_a_user_namespace_starts() {
    let map = crisp_shim_api::message::IdMap {
        container_id: 0,
        host_id: 100_000,
        length: 65_536,
    };
    let config = StartPod {
        uid_map: vec![map],
        gid_map: vec![map],
        new_pid: true,
        ..usual_pod()
    };
    let pod = Pod::start("userns", config);
    let status = fs::read_to_string(format!("/proc/{}/status", pod.pause)).unwrap();
    assert!(
        status.contains("Uid:\t100000\t100000\t100000\t100000"),
        "{status}"
    );
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
    pod.finish();
}

#[test]
fn privileged_death_of_the_shim_is_that_of_pause() {
    let mut pod = Pod::start("shim-death", usual_pod());
    kill(pod.shim, nix::sys::signal::SIGKILL).unwrap();
    waitpid(pod.shim, None).unwrap();
    pod.shim = Pid::from_raw(0);
    let pause = format!("/proc/{}", pod.pause);
    until("pause to end", || !Path::new(&pause).exists());
    assert!(matches!(
        connect(&pod.paths),
        Err(ConnectError::NotListening)
    ));
    let recorded = ShimPid::read(&pod.paths).unwrap().unwrap();
    assert!(!recorded.is_alive());
    let (listener, connection) = listen(&pod.paths).unwrap();
    pod.shim = listener.spawn(shim_program().as_fd()).unwrap();
    pod.daemon = Daemon::greet(connection).0;
    pod.finish();
}

#[test]
fn privileged_death_of_pause_is_told_and_containers_go_on() {
    let mut pod = Pod::start("pause-death", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let pause = Pid::from_raw(i32::try_from(pod.pause).unwrap());
    kill(pause, nix::sys::signal::SIGKILL).unwrap();
    let exited = pod.daemon.event(|event| match event {
        event::Body::PodExited(exited) => Some(*exited),
        _ => None,
    });
    assert_eq!(exited.signal, 9);
    assert_eq!(pod.output("c1", "echo alive"), "alive\n");
    let (_, welcome) = Daemon::greet(connect(&pod.paths).unwrap());
    let reply::Body::Welcome(welcome) = welcome else {
        panic!("{welcome:?}")
    };
    assert_eq!((welcome.pause_pid, welcome.pod_exited), (0, Some(exited)));
    pod.finish();
}
