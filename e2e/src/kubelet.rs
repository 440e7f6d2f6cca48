//! A kubelet on a node: what it is configured with, its process, and what it changes on its host.

use crate::leftovers::places_of_cgroup;
use crate::manifest::merged;
use crate::node::Node;
use crate::service::Service;
use crate::slot::KUBELETS_SLICE;
use crate::tools;
use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// What a kubelet sets when it starts (kubelet, cm/container_manager_linux.go).
const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Where it keeps the sockets of device plugins, whatever its own directory is.
const DEFAULT_ROOT: &str = "/var/lib/kubelet";
const CONFIG: &str = "config.json";
/// Shows it a directory of its own there, but nobody else: what it mounts elsewhere is seen by all.
const ALONE: &str =
    "mount --make-slave / && mount --bind \"$1\" /var/lib/kubelet && shift && exec \"$@\"";

/// Where a kubelet has the figures of pods from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FiguresFrom {
    /// The cAdvisor that is built in, which asks crisp whose cgroups it looks at.
    Cadvisor,
    /// The CRI: the feature `PodAndContainerStatsFromCRI`.
    Runtime,
}

/// A kubelet of a node. Killed when dropped, and what it leaves of its own removed.
#[derive(Debug)]
pub struct KubeletProcess {
    pub service: Service,
    dir: PathBuf,
    arguments: Vec<String>,
    config: Value,
    host: KubeletHost,
}

impl KubeletProcess {
    /// Prepares one that keeps its files below a directory, with more fields of its configuration than
    /// every one has; it does not run yet.
    ///
    /// # Errors
    /// The disk is full.
    pub fn configure(
        node: &Node,
        dir: &Path,
        arguments: &[String],
        log: PathBuf,
        more: Value,
    ) -> Result<Self> {
        for name in ["logs", "private", "root"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let own = json!({"podLogsDir": dir.join("logs"), "healthzPort": 0});
        let config = merged(merged(kubelet_config(node, dir), own), more);
        write_config(dir, &config, FiguresFrom::Cadvisor)?;
        let host = KubeletHost::prepare(node)?;
        share(&dir.join("root"))?;
        let command = command(node, dir, arguments, FiguresFrom::Cadvisor);
        Ok(Self {
            service: Service::new(&command, log)?,
            dir: dir.to_owned(),
            arguments: arguments.to_owned(),
            config,
            host,
        })
    }

    /// From its next start on it has its figures from elsewhere.
    ///
    /// # Errors
    /// The disk is full.
    pub fn have_figures_from(&self, node: &Node, figures: FiguresFrom) -> Result<()> {
        write_config(&self.dir, &self.config, figures)?;
        let command = command(node, &self.dir, &self.arguments, figures);
        self.service.become_command(&command);
        Ok(())
    }

    /// Removes what one that has ended leaves of its own: the mount of its directory, and the cgroups of
    /// the kinds of pods.
    pub fn remove_leftovers(&self) {
        // There is none when it was removed already.
        let _ = umount2(&self.dir.join("root"), MntFlags::MNT_DETACH);
        self.host.remove_leftovers();
    }
}

impl Drop for KubeletProcess {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = self.service.kill();
        self.remove_leftovers();
    }
}

/// What has to be there of a host before a kubelet of a node is, and what one leaves there; removed when
/// dropped, after the kubelet.
#[derive(Debug)]
pub struct KubeletHost {
    cgroups: Cgroups,
    has_made_default_root: bool,
}

impl KubeletHost {
    /// # Errors
    /// The cgroups cannot be made.
    pub fn prepare(node: &Node) -> Result<Self> {
        let host = Self {
            cgroups: Cgroups::prepare(node)?,
            has_made_default_root: !Path::new(DEFAULT_ROOT).exists(),
        };
        fs::create_dir_all(DEFAULT_ROOT)?;
        Ok(host)
    }

    fn remove_leftovers(&self) {
        self.cgroups.remove();
        if self.has_made_default_root {
            let _ = fs::remove_dir(DEFAULT_ROOT);
        }
    }
}

impl Drop for KubeletHost {
    fn drop(&mut self) {
        self.remove_leftovers();
    }
}

/// What a kubelet makes the cgroups of the kinds of pods as.
#[derive(Debug)]
enum Cgroups {
    /// Directories below these.
    Directories(Vec<PathBuf>),
    /// systemd's units.
    Slices,
}

impl Cgroups {
    fn prepare(node: &Node) -> Result<Self> {
        let parent = node.cgroup_parent();
        if parent == KUBELETS_SLICE {
            return Ok(Self::Slices);
        }
        let roots: Vec<PathBuf> = places_of_cgroup(&parent).collect();
        for root in &roots {
            fs::create_dir_all(root)?;
        }
        Ok(Self::Directories(roots))
    }

    fn remove(&self) {
        match self {
            Self::Directories(roots) => {
                for root in roots {
                    remove_tree(&root.join("kubepods"));
                }
            }
            Self::Slices => stop_slices(),
        }
    }
}

/// What kubelets set of their host as it was before; put back when dropped.
#[derive(Debug)]
pub struct HostSysctls(Vec<(PathBuf, String)>);

impl HostSysctls {
    /// # Errors
    /// They cannot be read.
    pub fn keep() -> Result<Self> {
        let read = |name| {
            let path = Path::new("/proc/sys").join(name);
            let value = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            anyhow::Ok((path, value))
        };
        Ok(Self(SYSCTLS.into_iter().map(read).collect::<Result<_>>()?))
    }
}

impl Drop for HostSysctls {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            if let Err(error) = fs::write(path, value) {
                eprintln!("{}: {error}", path.display());
            }
        }
    }
}

fn command(node: &Node, dir: &Path, arguments: &[String], figures: FiguresFrom) -> Command {
    let mut command = node.command("unshare");
    command
        .args(["--mount", "--propagation", "unchanged"])
        .args(["sh", "-c", ALONE, "sh"])
        .arg(dir.join("private"))
        .arg(tools::program("tools/kubernetes/kubelet"))
        .arg("--config")
        .arg(dir.join(CONFIG))
        .arg("--root-dir")
        .arg(dir.join("root"))
        .arg("--cert-dir")
        .arg(dir.join("pki"))
        .arg("--v=2")
        .args(arguments);
    if figures == FiguresFrom::Cadvisor {
        command.arg("--containerd").arg(node.socket());
    }
    command
}

fn write_config(dir: &Path, config: &Value, figures: FiguresFrom) -> Result<()> {
    let gates = json!({"PodAndContainerStatsFromCRI": figures == FiguresFrom::Runtime});
    let config = merged(config.clone(), json!({"featureGates": gates}));
    Ok(fs::write(dir.join(CONFIG), config.to_string())?)
}

/// What every kubelet of a node is told (Kubernetes, "Kubelet Configuration (v1beta1)"), with a directory
/// for what it keeps.
#[must_use]
pub fn kubelet_config(node: &Node, dir: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", node.socket().display()),
        "volumePluginDir": dir.join("plugins"),
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        // How it makes cgroups it asks crisp (`RuntimeConfig`).
        "cgroupRoot": cgroup_root(node),
        "enforceNodeAllocatable": ["pods"],
        // The host's disk may be rather full.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "syncFrequency": "5s",
        "serializeImagePulls": false,
        "maxParallelImagePulls": 4,
    })
}

/// The cgroup that its own one of all pods is below.
fn cgroup_root(node: &Node) -> String {
    let parent = node.cgroup_parent();
    match parent == KUBELETS_SLICE {
        true => "/".to_owned(),
        false => parent,
    }
}

/// Makes a directory one whose mounts are seen on both sides, whoever leaves for a mount namespace of
/// its own.
fn share(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND, none)?;
    Ok(mount(none, dir, none, MsFlags::MS_SHARED, none)?)
}

/// Has systemd end the slice of all pods, and with it those of each.
fn stop_slices() {
    let slice = KUBELETS_SLICE.trim_start_matches('/');
    let status = Command::new("systemctl").args(["stop", slice]).status();
    if !status.as_ref().is_ok_and(ExitStatus::success) {
        eprintln!("{slice}: {status:?}");
    }
}

/// Removes cgroups without processes, the innermost first. Those with some are swept with their node.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let expected = [ErrorKind::NotFound, ErrorKind::ResourceBusy];
    if let Err(error) = fs::remove_dir(dir)
        && !expected.contains(&error.kind())
    {
        eprintln!("{}: {error}", dir.display());
    }
}
