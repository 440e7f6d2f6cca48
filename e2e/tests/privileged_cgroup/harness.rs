//! A cgroup of its own for each test, and shells in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crisp_cgroup::{Cgroup, CgroupPath, Error, Extent, Hierarchies, Stats, Version};
use crisp_e2e::cgroups_are_v2;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::LinuxResources;

pub(crate) const MIB: u64 = 1 << 20;
/// Waits are for things that happen; this one is for those that do not.
const PATIENCE: Duration = Duration::from_secs(180);

/// A cgroup for one test, killed and removed with all below it.
pub(crate) struct Scratch {
    pub(crate) hierarchies: Hierarchies,
    pub(crate) cgroup: Cgroup,
}

impl Scratch {
    pub(crate) fn new(hierarchies: Hierarchies) -> Self {
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

    pub(crate) fn on_this_host() -> Self {
        Self::new(Hierarchies::detect().expect("the host has cgroups"))
    }

    /// In the version 2 hierarchy alone.
    pub(crate) fn on_version_2() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("unified");
        let root = if unified.exists() { &unified } else { root };
        let hierarchies = Hierarchies::at(root).expect("the host has cgroup v2");
        assert_eq!(hierarchies.version(), Version::V2);
        Self::new(hierarchies)
    }

    pub(crate) fn child(&self, name: &str) -> Cgroup {
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
pub(crate) struct Shell(Child);

impl Shell {
    pub(crate) fn start(cgroup: &Cgroup, script: &str) -> Self {
        Self::start_in(cgroup.dirs(), script)
    }

    pub(crate) fn start_in(dirs: Vec<PathBuf>, script: &str) -> Self {
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
    pub(crate) fn burn(cgroup: &Cgroup) -> Self {
        Self::start(cgroup, "while :; do :; done")
    }

    /// Holds that much memory.
    pub(crate) fn hold(cgroup: &Cgroup, bytes: u64) -> Self {
        let script = format!("{{ head -c {bytes} /dev/zero; sleep 3600; }} | tail -c {bytes}");
        Self::start(cgroup, &script)
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it is a child").is_none()
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().expect("the shell ends")
    }

    pub(crate) fn succeeds(cgroup: &Cgroup, script: &str) -> bool {
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

/// A directory with some version 1 hierarchies of this host and nothing else.
pub(crate) struct Bound {
    root: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Bound {
    /// None on a host without them.
    pub(crate) fn new(controllers: &[&str]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("crisp-e2e-hierarchies-{}-{number}", std::process::id());
        if cgroups_are_v2() {
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

    pub(crate) fn hierarchies(&self) -> Hierarchies {
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

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn apply(cgroup: &Cgroup, json: &str) -> Result<(), Error> {
    let limits: LinuxResources = serde_json::from_str(json).expect("valid resources");
    cgroup.apply(&limits)
}

pub(crate) fn stats(cgroup: &Cgroup) -> Stats {
    cgroup.stats(Extent::All).expect("figures are read")
}

pub(crate) fn cpu_usage(cgroup: &Cgroup) -> Duration {
    Duration::from_nanos(stats(cgroup).cpu.expect("cpu figures").usage_ns)
}

pub(crate) fn tasks(cgroup: &Cgroup) -> u64 {
    stats(cgroup).pids.expect("pids figures").current
}

pub(crate) fn memory_usage(cgroup: &Cgroup) -> u64 {
    stats(cgroup).memory.expect("memory figures").usage_bytes
}
