//! The kernel's part: the bare system calls of the start of a pod with one container, and of its end,
//! one after the other in one process. No daemon, no shim, no records, no limits, no logs, no filter
//! of system calls: whatever a runtime takes longer than this is its own.

mod container;
mod network;

use crate::figure::{Row, Samples, Unit};
use anyhow::{Context, Result, ensure};
use container::Layers;
use crisp_cgroup::{Cgroup, CgroupPath, Hierarchies};
use crisp_e2e::catalog;
use crisp_sys::namespace::Kind;
use crisp_sys::process::{self, Child, SingleThreaded, Spawn, Spawned};
use network::Network;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::pause;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A file system in memory, as runtimes have for what belongs to running pods.
const MEMORY_DIR: &str = "/dev/shm";

/// Measures in this process.
pub(crate) fn measure(rounds: usize) -> Result<Vec<Row>> {
    let interrupts = hold_interrupts()?;
    let mut host = Host::prepare()?;
    let mut samples = Samples::new(1);
    let mut add = |what: &str, since: Instant| {
        let ms = since.elapsed().as_secs_f64() * 1e3;
        samples.add(0, what, Unit::Milliseconds, ms);
    };
    for _ in 0..rounds {
        let begin = Instant::now();
        let pod = host.start_pod()?;
        add("RunPodSandbox", begin);
        let container = host.start_container(&pod)?;
        add("pod start", begin);
        let begin = Instant::now();
        host.end(pod, container)?;
        add("pod stop and remove", begin);
        ensure!(interrupts.read_signal()?.is_none(), "interrupted");
    }
    Ok(samples.into_rows())
}

/// Who interrupts or terminates it is heeded between two rounds, when nothing is half made.
fn hold_interrupts() -> Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(
        &signals,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// What there is before the first pod, and is removed in the end.
struct Host {
    witness: SingleThreaded,
    dir: PathBuf,
    image: PathBuf,
    hierarchies: Hierarchies,
    cgroup: CgroupPath,
    network: Network,
}

/// A pod without containers.
struct Pod {
    pause: Spawned,
    cgroups: Cgroups,
}

/// The pod's, of the pause process, and of the container.
struct Cgroups {
    pod: Cgroup,
    pause: Cgroup,
    pause_dirs: Vec<PathBuf>,
    container: Cgroup,
}

/// The cgroups of a process: it is born in that of version 2, and moves into the others, as it need not wait there.
struct Membership {
    unified: Option<File>,
    others: Vec<PathBuf>,
}

impl Host {
    fn prepare() -> Result<Self> {
        let witness = SingleThreaded::verify()?;
        let name = format!("floor{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        let image = dir.join("image");
        for place in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(image.join(place))?;
        }
        fs::copy(catalog::busybox(), image.join("bin/busybox"))?;
        let hierarchies = Hierarchies::detect()?;
        let cgroup = CgroupPath::parse(&format!("/{name}"))?;
        hierarchies.create(&cgroup)?;
        let network = Network::prepare(&name)?;
        Ok(Self {
            witness,
            dir,
            image,
            hierarchies,
            cgroup,
            network,
        })
    }

    fn start_pod(&mut self) -> Result<Pod> {
        let cgroups = self.make_cgroups()?;
        let pause = self
            .spawn_pause(&cgroups.pause_dirs)
            .context("the pause process")?;
        let netns = self.netns();
        File::create(&netns)?;
        let source = PathBuf::from(format!("/proc/{}/ns/net", pause.pid));
        mount(Some(&source), &netns, none(), MsFlags::MS_BIND, none())?;
        self.network.connect(&netns, &self.witness)?;
        Ok(Pod { pause, cgroups })
    }

    /// Where the pod's network namespace is mounted.
    fn netns(&self) -> PathBuf {
        Path::new(MEMORY_DIR).join(self.cgroup.name())
    }

    fn start_container(&self, pod: &Pod) -> Result<Spawned> {
        let layers = Layers::make(&self.dir.join("container"), &self.image)?;
        container::start(&layers, &pod.pause, &pod.cgroups.container, &self.witness)
    }

    fn end(&self, pod: Pod, container: Spawned) -> Result<()> {
        for spawned in [container, pod.pause] {
            process::kill(&spawned.pidfd);
            waitpid(spawned.pid, None)?;
        }
        umount2(&self.netns(), MntFlags::MNT_DETACH)?;
        fs::remove_file(self.netns())?;
        let Cgroups {
            pod,
            pause,
            container,
            ..
        } = pod.cgroups;
        for cgroup in [container, pause, pod] {
            cgroup.remove()?;
        }
        Ok(fs::remove_dir_all(self.dir.join("container"))?)
    }

    fn make_cgroups(&self) -> Result<Cgroups> {
        let pod = self.cgroup.join("pod")?;
        let pause = pod.join("pause")?;
        Ok(Cgroups {
            pod: self.hierarchies.create(&pod)?,
            pause_dirs: self.hierarchies.create_idle(&pause)?,
            pause: self.hierarchies.open(&pause),
            container: self.hierarchies.create(&pod.join("container")?)?,
        })
    }

    fn spawn_pause(&self, dirs: &[PathBuf]) -> Result<Spawned> {
        let kinds = [Kind::Network, Kind::Ipc, Kind::Uts, Kind::Pid];
        spawn(&kinds, &Membership::of(dirs)?, &self.witness, |_| {
            loop {
                pause();
            }
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Of a run that failed, a pod is there yet.
        let cgroup = self.hierarchies.open(&self.cgroup);
        let _ = cgroup.kill();
        let _ = umount2(&self.netns(), MntFlags::MNT_DETACH);
        let _ = fs::remove_file(self.netns());
        let _ = self.network.remove();
        let _ = cgroup.remove();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A child in new namespaces.
fn spawn(
    kinds: &[Kind],
    cgroups: &Membership,
    witness: &SingleThreaded,
    body: impl FnOnce(&Child) -> Result<()>,
) -> Result<Spawned> {
    let namespaces = kinds.iter().map(|kind| kind.flag());
    let options = Spawn {
        namespaces: Some(namespaces.fold(CloneFlags::empty(), CloneFlags::union)),
        cgroup: cgroups.unified.as_ref().map(AsFd::as_fd),
        ..Spawn::default()
    };
    let spawned = process::spawn(&options, witness, |child| {
        match cgroups.join().and_then(|()| body(child)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error:#}");
                1
            }
        }
    })?;
    Ok(spawned)
}

impl Membership {
    /// Of a process that is to be in these directories of hierarchies.
    fn of(dirs: &[PathBuf]) -> Result<Self> {
        let is_unified = |dir: &&PathBuf| dir.join("cgroup.controllers").exists();
        let unified = dirs.iter().find(is_unified);
        let others = dirs.iter().filter(|dir| Some(*dir) != unified);
        Ok(Self {
            unified: unified.map(File::open).transpose()?,
            others: others.cloned().collect(),
        })
    }

    /// Moves the caller.
    fn join(&self) -> Result<()> {
        for dir in &self.others {
            fs::write(dir.join("tasks"), "0")?;
        }
        Ok(())
    }
}

fn none() -> Option<&'static Path> {
    None
}
