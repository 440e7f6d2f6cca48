//! Control groups against the kernel: limits hold, figures are true, nothing is left.
//!
//! Each test works below a cgroup of its own, in every hierarchy of the host. Version 2 is tried in the
//! version 2 hierarchy of a hybrid host, as far as that goes without controllers.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests fail by it, with the error")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crisp_cgroup::{Cgroup, CgroupPath, Controller, Error, Hierarchies, Stats, Version};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::LinuxResources;

const MIB: u64 = 1 << 20;
/// Waits are for things that happen; this one is for those that do not.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cgroup for one test, killed and removed with all below it.
struct Scratch {
    hierarchies: Hierarchies,
    cgroup: Cgroup,
}

impl Scratch {
    fn new(hierarchies: Hierarchies) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/crisp-e2e-cgroup-{}-{number}", std::process::id());
        let path = CgroupPath::parse(&name).expect("a valid path");
        let cgroup = hierarchies.create(&path).unwrap_or_else(|error| {
            panic!("{error}; run as root: sudo -E cargo test -p crisp-e2e --test privileged_cgroup")
        });
        Self {
            hierarchies,
            cgroup,
        }
    }

    fn on_this_host() -> Self {
        Self::new(Hierarchies::detect().expect("the host has cgroups"))
    }

    /// In the version 2 hierarchy alone.
    fn on_version_2() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("unified");
        let root = if unified.exists() { &unified } else { root };
        let hierarchies = Hierarchies::at(root).expect("the host has cgroup v2");
        assert_eq!(hierarchies.version(), Version::V2);
        Self::new(hierarchies)
    }

    fn child(&self, name: &str) -> Cgroup {
        let path = self.cgroup.path().join(name).expect("a valid name");
        self.hierarchies.create(&path).expect("the child is made")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where nothing was frozen, or the cgroup is gone, there is nothing to thaw.
        _ = self.cgroup.thaw();
        let ended = self.cgroup.kill();
        let removed = self.cgroup.remove();
        if !thread::panicking() {
            ended.expect("all processes end");
            removed.expect("the cgroup is removed");
        }
    }
}

/// A shell in a cgroup; killed and waited for at the end.
struct Shell(Child);

impl Shell {
    fn start(cgroup: &Cgroup, script: &str) -> Self {
        Self::start_in(cgroup.dirs(), script)
    }

    fn start_in(dirs: Vec<PathBuf>, script: &str) -> Self {
        const JOIN: &str = r#"for dir; do echo 0 > "$dir/cgroup.procs" || exit 125; done; "#;
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{JOIN}{script}"))
            .arg("sh")
            .args(dirs)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self(child)
    }

    /// Uses all the cpu time it gets.
    fn burn(cgroup: &Cgroup) -> Self {
        Self::start(cgroup, "while :; do :; done")
    }

    /// Holds that much memory.
    fn hold(cgroup: &Cgroup, bytes: u64) -> Self {
        let script =
            format!("x=$(head -c {bytes} /dev/zero | tr '\\0' x); while :; do sleep 9; done");
        Self::start(cgroup, &script)
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().expect("the shell ends")
    }

    fn succeeds(cgroup: &Cgroup, script: &str) -> bool {
        let status = Self::start(cgroup, script).wait();
        assert_ne!(status.code(), Some(125), "the shell joins");
        status.success()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Both fail when it has been waited for, which is what is wanted.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

fn apply(cgroup: &Cgroup, json: &str) -> Result<(), Error> {
    let limits: LinuxResources = serde_json::from_str(json).expect("valid resources");
    cgroup.apply(&limits)
}

fn stats(cgroup: &Cgroup) -> Stats {
    cgroup.stats().expect("figures are read")
}

fn cpu_usage(cgroup: &Cgroup) -> Duration {
    Duration::from_nanos(stats(cgroup).cpu.expect("cpu figures").usage_ns)
}

fn tasks(cgroup: &Cgroup) -> u64 {
    stats(cgroup).pids.expect("pids figures").current
}

fn memory_usage(cgroup: &Cgroup) -> u64 {
    stats(cgroup).memory.expect("memory figures").usage_bytes
}

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
    assert!(matches!(missing.stats(), Err(Error::NotFound { .. })));
    assert!(matches!(missing.limits(), Err(Error::NotFound { .. })));
}

#[test]
fn privileged_quota_holds_a_busy_process_down() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    apply(&cgroup, r#"{"cpu": {"quota": 5000, "period": 50000}}"#).unwrap();
    let _burner = Shell::burn(&cgroup);
    let cpu = || stats(&cgroup).cpu.expect("cpu figures");
    until("the quota runs out", || cpu().throttled_periods >= 20);
    let cpu = cpu();
    assert!(cpu.periods >= cpu.throttled_periods, "{cpu:?}");
    assert!(cpu.throttled_ns > 0, "{cpu:?}");
    // A tenth of one cpu: 5 ms in each period, and as much again for what the kernel gives away.
    assert!(cpu.usage_ns < (cpu.periods + 1) * 10_000_000, "{cpu:?}");
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
    let used = |cgroup, before| (cpu_usage(cgroup) - before).as_secs_f64();
    let ratio = used(&large, large_before) / used(&small, small_before);
    assert!((0.8..1.25).contains(&(ratio / wanted)), "1:{ratio}");
}

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
    assert_eq!(memory.oom_kills, cgroup.oom_kills().unwrap());
    assert_eq!(memory.limit_bytes, Some(16 * MIB));
    assert!(
        memory.max_usage_bytes.is_none_or(|max| max <= 16 * MIB),
        "{memory:?}"
    );
    // The pod's count includes its containers'.
    assert_eq!(scratch.cgroup.oom_kills().unwrap(), memory.oom_kills);
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

/// A directory with some version 1 hierarchies of this host and nothing else.
struct Bound {
    root: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Bound {
    /// None on a host without them.
    fn new(controllers: &[&str]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("crisp-e2e-hierarchies-{}-{number}", std::process::id());
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return None;
        }
        let mut bound = Self {
            root: std::env::temp_dir().join(name),
            mounts: Vec::new(),
        };
        for controller in controllers {
            let source = Path::new("/sys/fs/cgroup").join(controller);
            let target = bound.root.join(controller);
            fs::create_dir_all(&target).expect("a directory is made");
            mount(
                Some(&source),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .expect("a version 1 hierarchy is bound; run as root");
            bound.mounts.push(target);
        }
        Some(bound)
    }

    fn hierarchies(&self) -> Hierarchies {
        Hierarchies::at(&self.root).expect("there are hierarchies")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        for target in &self.mounts {
            umount2(target, MntFlags::MNT_DETACH).expect("what was mounted is unmounted");
            fs::remove_dir(target).expect("the mount point is empty");
        }
        fs::remove_dir(&self.root).expect("the directory is empty");
    }
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
fn privileged_removal_leaves_nothing_in_any_hierarchy() {
    let scratch = Scratch::on_this_host();
    let pod = scratch.child("pod");
    let container = pod.path().join("container").unwrap();
    let nested = container.join("a").unwrap().join("b").unwrap();
    scratch.hierarchies.create(&nested).unwrap();
    let container = scratch.hierarchies.open(&container);
    let _shell = Shell::burn(&scratch.hierarchies.open(&nested));
    until("it runs", || container.pids().unwrap().len() == 1);
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
