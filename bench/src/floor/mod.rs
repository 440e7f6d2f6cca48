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
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    container: Cgroup,
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
            .spawn_pause(&cgroups.pause)
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
        self.dir.join("netns")
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
        } = pod.cgroups;
        for cgroup in [container, pause, pod] {
            cgroup.remove()?;
        }
        Ok(fs::remove_dir_all(self.dir.join("container"))?)
    }

    fn make_cgroups(&self) -> Result<Cgroups> {
        let pod = self.cgroup.join("pod")?;
        let make = |path: &CgroupPath| self.hierarchies.create(path);
        Ok(Cgroups {
            pod: make(&pod)?,
            pause: make(&pod.join("pause")?)?,
            container: make(&pod.join("container")?)?,
        })
    }

    fn spawn_pause(&self, cgroup: &Cgroup) -> Result<Spawned> {
        let kinds = [Kind::Network, Kind::Ipc, Kind::Uts, Kind::Pid];
        let dirs = cgroup.dirs();
        Ok(spawn(&kinds, &self.witness, |_| {
            join(&dirs)?;
            loop {
                pause();
            }
        })?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Of a run that failed, a pod is there yet.
        let cgroup = self.hierarchies.open(&self.cgroup);
        let _ = cgroup.kill();
        let _ = umount2(&self.netns(), MntFlags::MNT_DETACH);
        let _ = self.network.remove();
        let _ = cgroup.remove();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A child in new namespaces.
fn spawn(
    kinds: &[Kind],
    witness: &SingleThreaded,
    body: impl FnOnce(&Child) -> Result<()>,
) -> nix::Result<Spawned> {
    let namespaces = kinds.iter().map(|kind| kind.flag());
    let options = Spawn {
        namespaces: Some(namespaces.fold(CloneFlags::empty(), CloneFlags::union)),
        ..Spawn::default()
    };
    process::spawn(&options, witness, |child| match body(child) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error:#}");
            1
        }
    })
}

/// Moves the caller into these directories of hierarchies.
fn join(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        // Version 2 has no such file.
        match fs::write(dir.join("tasks"), "0") {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(nix::libc::EACCES) =>
            {
                fs::write(dir.join("cgroup.procs"), "0")?;
            }
            done => done?,
        }
    }
    Ok(())
}

fn none() -> Option<&'static Path> {
    None
}
