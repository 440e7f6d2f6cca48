//! What the daemon tells of a pod and of a container: the part of its JSON that is shown.

use crisp_model::{ContainerConfig, ContainerState, PodConfig, PortMapping, ResolvedUser};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodFacts {
    pub(super) id: String,
    /// Of the pause process.
    pub(super) pid: Option<u32>,
    pub(super) shim_pid: Option<u32>,
    pub(super) process_status: String,
    /// Empty: the default one.
    pub(super) runtime_handler: String,
    pub(super) net_namespace: Option<PathBuf>,
    pub(super) network: Option<Network>,
    pub(super) bridge: Option<String>,
    #[serde(default)]
    pub(super) cni: Option<Cni>,
    pub(super) run_dir: PathBuf,
    pub(super) cgroup: Cgroup,
    pub(super) config: PodConfig,
    #[serde(default)]
    pub(super) containers: Vec<ContainerFacts>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerFacts {
    pub(super) id: String,
    #[serde(rename = "sandboxID")]
    pub(super) sandbox_id: String,
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    pub(super) state: ContainerState,
    /// Its id.
    pub(super) image: String,
    pub(super) user: ResolvedUser,
    pub(super) log_path: Option<PathBuf>,
    pub(super) cgroup: Cgroup,
    pub(super) config: ContainerConfig,
}

/// A pod's place in the network.
#[derive(Debug, Deserialize)]
pub(super) struct Network {
    pub(super) host_interface: String,
    pub(super) pod_interface: String,
    pub(super) addresses: Vec<String>,
    pub(super) gateways: Vec<String>,
    pub(super) mac: String,
    pub(super) mtu: u32,
    pub(super) port_mappings: Vec<PortMapping>,
    /// None: the pod is on the bridge.
    #[serde(default)]
    pub(super) uplink: Option<Uplink>,
}

/// What the pod's interface is a child of.
#[derive(Debug, Deserialize)]
pub(super) struct Uplink {
    pub(super) name: String,
}

/// A pod's place in a network of CNI plugins.
#[derive(Debug, Deserialize)]
pub(super) struct Cni {
    pub(super) network: String,
    pub(super) source: PathBuf,
    pub(super) plugins: Vec<String>,
    pub(super) interface: String,
    pub(super) addresses: Vec<String>,
}

/// All but the path are missing when the cgroup does not exist.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cgroup {
    pub(super) path: String,
    pub(super) directories: Vec<PathBuf>,
    pub(super) limits: Limits,
    pub(super) stats: Stats,
}

/// The limits in force; none: no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    pub(super) cpu_shares: Option<u64>,
    pub(super) cpu_weight: Option<u64>,
    pub(super) cpu_quota_us: Option<u64>,
    pub(super) cpu_period_us: Option<u64>,
    pub(super) cpuset_cpus: Option<String>,
    pub(super) cpuset_mems: Option<String>,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) memory_swap_limit_bytes: Option<u64>,
    pub(super) memory_reservation_bytes: Option<u64>,
    pub(super) pids_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) cpu: Option<Cpu>,
    pub(super) memory: Option<Memory>,
    pub(super) pids: Option<Pids>,
    pub(super) hugetlb: Vec<Hugetlb>,
    pub(super) pressure: Option<Pressures>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Cpu {
    pub(super) usage_ns: u64,
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    pub(super) throttled_ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Memory {
    pub(super) usage_bytes: u64,
    pub(super) max_usage_bytes: Option<u64>,
    pub(super) working_set_bytes: u64,
    pub(super) swap_bytes: Option<u64>,
    pub(super) oom_kills: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pids {
    pub(super) current: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Hugetlb {
    pub(super) page_size: String,
    pub(super) usage_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pressures {
    pub(super) cpu: Pressure,
    pub(super) memory: Pressure,
    pub(super) io: Pressure,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pressure {
    pub(super) some: Stall,
}

#[derive(Debug, Deserialize)]
pub(super) struct Stall {
    /// Percent of the last ten seconds.
    pub(super) avg10: f64,
}
