//! What the daemon tells of a pod and of a container: the part of its JSON that commands show.

use crisp_model::{ContainerConfig, ContainerState, PodConfig, PortMapping, ResolvedUser};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodFacts {
    pub(crate) id: String,
    /// Of the pause process.
    pub(crate) pid: Option<u32>,
    pub(crate) shim_pid: Option<u32>,
    pub(crate) process_status: String,
    /// Empty: the default one.
    pub(crate) runtime_handler: String,
    pub(crate) net_namespace: Option<PathBuf>,
    pub(crate) network: Option<Network>,
    pub(crate) bridge: Option<String>,
    #[serde(default)]
    pub(crate) cni: Option<Cni>,
    pub(crate) run_dir: PathBuf,
    pub(crate) cgroup: Cgroup,
    pub(crate) config: PodConfig,
    #[serde(default)]
    pub(crate) containers: Vec<ContainerFacts>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerFacts {
    pub(crate) id: String,
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox_id: String,
    pub(crate) name: String,
    pub(crate) pid: Option<u32>,
    pub(crate) state: ContainerState,
    /// Its id.
    pub(crate) image: String,
    pub(crate) user: ResolvedUser,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) cgroup: Cgroup,
    pub(crate) config: ContainerConfig,
}

/// A pod's place in the network.
#[derive(Debug, Deserialize)]
pub(crate) struct Network {
    pub(crate) host_interface: String,
    pub(crate) pod_interface: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) port_mappings: Vec<PortMapping>,
    /// None: the pod is on the bridge.
    #[serde(default)]
    pub(crate) uplink: Option<Uplink>,
}

/// What the pod's interface is a child of.
#[derive(Debug, Deserialize)]
pub(crate) struct Uplink {
    pub(crate) name: String,
}

/// A pod's place in a network of CNI plugins.
#[derive(Debug, Deserialize)]
pub(crate) struct Cni {
    pub(crate) network: String,
    pub(crate) source: PathBuf,
    pub(crate) plugins: Vec<String>,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<String>,
}

/// All but the path are missing when the cgroup does not exist.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Cgroup {
    pub(crate) path: String,
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
}

/// The limits in force; none: no limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    pub(crate) cpu_shares: Option<u64>,
    pub(crate) cpu_weight: Option<u64>,
    pub(crate) cpu_quota_us: Option<u64>,
    pub(crate) cpu_period_us: Option<u64>,
    pub(crate) cpuset_cpus: Option<String>,
    pub(crate) cpuset_mems: Option<String>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) memory_swap_limit_bytes: Option<u64>,
    pub(crate) memory_reservation_bytes: Option<u64>,
    pub(crate) pids_max: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stats {
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
    pub(crate) pids: Option<Pids>,
    pub(crate) hugetlb: Vec<Hugetlb>,
    pub(crate) pressure: Option<Pressures>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) usage_ns: u64,
    pub(crate) periods: u64,
    pub(crate) throttled_periods: u64,
    pub(crate) throttled_ns: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Memory {
    pub(crate) usage_bytes: u64,
    pub(crate) max_usage_bytes: Option<u64>,
    pub(crate) working_set_bytes: u64,
    pub(crate) swap_bytes: Option<u64>,
    pub(crate) oom_kills: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Pids {
    pub(crate) current: u64,
    /// None: the kernel does not count them, or the daemon does not tell.
    #[serde(default)]
    pub(crate) refused_forks: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Hugetlb {
    pub(crate) page_size: String,
    pub(crate) usage_bytes: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Pressures {
    pub(crate) cpu: Pressure,
    pub(crate) memory: Pressure,
    pub(crate) io: Pressure,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Pressure {
    pub(crate) some: Stall,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Stall {
    /// Percent of the last ten seconds.
    pub(crate) avg10: f64,
    /// Since the cgroup was made.
    #[serde(default)]
    pub(crate) total_us: u64,
}
