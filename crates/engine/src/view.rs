//! What the engine tells of pods and containers: snapshots that are taken from memory and never wait.

use crisp_cgroup::Stats as CgroupStats;
use crisp_model::{
    ContainerConfig, ContainerId, ContainerState, PodConfig, PodId, PodState, ResolvedUser,
    Resources,
};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// A pod at one moment.
#[derive(Debug, Clone)]
pub struct PodView {
    pub id: PodId,
    pub config: Arc<PodConfig>,
    /// As the client named it; empty: the default one.
    pub handler: String,
    pub created_at: SystemTime,
    pub state: PodState,
    /// The pod's own addresses, the first one of the primary family; none with the host's network.
    pub addresses: Vec<IpAddr>,
    /// None: not started, or stopped.
    pub pause_pid: Option<u32>,
    pub shim_pid: Option<u32>,
    /// None with the host's network.
    pub netns: Option<PathBuf>,
    pub host_interface: Option<String>,
    /// Within the hierarchies.
    pub cgroup: String,
}

/// A container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerView {
    pub id: ContainerId,
    pub pod: PodId,
    pub config: Arc<ContainerConfig>,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    pub created_at: SystemTime,
    pub state: ContainerState,
    /// Absolute; none: it has no log.
    pub log_path: Option<PathBuf>,
    pub user: ResolvedUser,
    /// In force, with all updates.
    pub resources: Resources,
    /// The signal that stops it.
    pub stop_signal: i32,
    /// Within the hierarchies.
    pub cgroup: String,
}

/// What a command that ran in a container left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// The first 16 MiB; the rest is dropped.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Figures of a container.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    pub container: ContainerView,
    pub at: SystemTime,
    /// None: it does not run.
    pub cgroup: Option<CgroupStats>,
    /// Cpu time per second since the last look, in nanoseconds.
    pub cpu_nano_cores: Option<u64>,
    pub writable_layer: Option<DiskUsage>,
}

/// Figures of a pod.
#[derive(Debug, Clone)]
pub struct PodStats {
    pub pod: PodView,
    pub at: SystemTime,
    pub cgroup: Option<CgroupStats>,
    pub cpu_nano_cores: Option<u64>,
    /// None with the host's network.
    pub network: Option<crisp_network::InterfaceStatistics>,
    pub process_count: u64,
    pub containers: Vec<ContainerStats>,
}

/// Space taken on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    pub mountpoint: PathBuf,
    pub used_bytes: u64,
    pub used_inodes: u64,
}

/// Whether the node can run pods (CRI `Status`).
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    /// None: pods with a network of their own can be started; else why not.
    pub network_not_ready: Option<String>,
    pub cni: Arc<CniStatus>,
    pub handlers: Vec<Handler>,
}

/// Whether CNI plugins wire pods, and whether they can.
#[derive(Debug, Clone, PartialEq)]
pub enum CniStatus {
    /// They have not answered since the daemon was started.
    Unknown,
    /// The built-in network does.
    Unused,
    /// Pods wait until the configuration is there and right.
    Unusable(String),
    Used {
        network: Arc<crisp_cni::Network>,
        /// None: the plugins can.
        failure: Option<String>,
    },
}

impl CniStatus {
    /// Why plugins that are to wire pods cannot.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        match self {
            Self::Unknown => Some("the CNI plugins have not answered yet".to_owned()),
            Self::Unused => None,
            Self::Unusable(why) => Some(why.clone()),
            Self::Used { failure, .. } => failure.clone(),
        }
    }
}

/// A runtime handler and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Empty: the default one.
    pub name: String,
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

/// Who makes and owns cgroups above a pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    Cgroupfs,
    Systemd,
}
