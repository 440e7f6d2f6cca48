//! A container's first process: in its namespaces and cgroups, on an overlay with the file systems
//! that every container has.

use super::Membership;
use anyhow::{Context, Result, ensure};
use crisp_cgroup::Cgroup;
use crisp_sys::mount::{
    Attributes, Change, FsContext, Overlay, Propagation, Recursion, Upper, attach_at, change,
};
use crisp_sys::namespace::{Kind, setns};
use crisp_sys::process::{Child, SingleThreaded, Spawned};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, execve, fchdir, pivot_root};
use std::convert::Infallible;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directories of an overlay.
pub(super) struct Layers {
    lower: [PathBuf; 1],
    upper: PathBuf,
    work: PathBuf,
}

impl Layers {
    pub(super) fn make(dir: &Path, image: &Path) -> Result<Self> {
        let layers = Self {
            lower: [image.to_owned()],
            upper: dir.join("upper"),
            work: dir.join("work"),
        };
        fs::create_dir(dir)?;
        fs::create_dir(&layers.upper)?;
        fs::create_dir(&layers.work)?;
        Ok(layers)
    }

    fn mount(&self) -> Result<OwnedFd> {
        let overlay = Overlay {
            lower_dirs: &self.lower,
            upper: Some(Upper {
                upper_dir: &self.upper,
                work_dir: &self.work,
                volatile: true,
            }),
            context: None,
            id_map: None,
        };
        Ok(overlay.mount()?)
    }
}

/// Returns when the process executes its program.
pub(super) fn start(
    layers: &Layers,
    pod: &Spawned,
    cgroup: &Cgroup,
    witness: &SingleThreaded,
) -> Result<Spawned> {
    let root = layers.mount()?;
    let cgroups = Membership::of(&cgroup.dirs())?;
    let (mut executed, report) = std::io::pipe()?;
    let kinds = [Kind::Mount, Kind::Pid, Kind::Cgroup];
    let spawned = super::spawn(&kinds, &cgroups, witness, |child| {
        let _closed_by_exec = report.as_fd();
        become_container(&root, pod, child).map(|never| match never {})
    })?;
    drop(report);
    let mut nothing = Vec::new();
    executed.read_to_end(&mut nothing)?;
    ensure!(runs(&spawned), "the container's process ended");
    Ok(spawned)
}

fn become_container(root: &OwnedFd, pod: &Spawned, child: &Child) -> Result<Infallible> {
    let shared = Kind::Network.flag() | Kind::Ipc.flag() | Kind::Uts.flag();
    setns(&pod.pidfd, shared, child.witness())?;
    enter(root)?;
    mount("proc", "/proc")?;
    mount("sysfs", "/sys")?;
    mount("tmpfs", "/dev")?;
    for (name, minor) in [
        ("null", 3),
        ("zero", 5),
        ("full", 7),
        ("random", 8),
        ("urandom", 9),
    ] {
        let path = Path::new("/dev").join(name);
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&path, SFlag::S_IFCHR, mode, makedev(1, minor))?;
    }
    for (fs_type, place) in [
        ("devpts", "/dev/pts"),
        ("mqueue", "/dev/mqueue"),
        ("tmpfs", "/dev/shm"),
    ] {
        fs::create_dir(place)?;
        mount(fs_type, place)?;
    }
    let arguments = [c"busybox", c"sleep", c"1000000"];
    let environment = [c"PATH=/bin"];
    Ok(execve(c"/bin/busybox", &arguments, &environment)?)
}

/// Makes a detached mount the root, and leaves the host's mounts.
fn enter(root: &OwnedFd) -> Result<()> {
    let old = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    change(old, &private, Recursion::WholeTree)?;
    attach_at(root, Path::new("/"))?;
    fchdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

fn mount(fs_type: &str, place: &str) -> Result<()> {
    let mount = FsContext::open(fs_type)?.mount(Attributes::NONE)?;
    attach_at(mount, Path::new(place)).context(place.to_owned())
}

fn runs(spawned: &Spawned) -> bool {
    crisp_sys::process::pidfd_send_signal(&spawned.pidfd, 0).is_ok()
}
