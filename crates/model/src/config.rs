//! What a client asked for: the configuration of a pod and of a container, as they are kept in
//! records. Parsing from the wire and refusing what is malformed is done where these are made.

use crate::ContainerId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// What names a pod for its client: at most one pod with the same four values exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct PodMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

/// What was asked of a pod (CRI `PodSandboxConfig`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PodConfig {
    pub metadata: PodMetadata,
    /// Empty: the host's name when the pod uses the host's network, else the pod's name.
    pub hostname: String,
    /// Where the log files of its containers go; none: containers have no log.
    pub log_directory: Option<PathBuf>,
    /// None: the host's resolv.conf is copied.
    pub dns: Option<DnsConfig>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: StringMap,
    pub annotations: StringMap,
    /// The cgroup that the kubelet made for the pod, as a cgroupfs path or a systemd slice.
    pub cgroup_parent: Option<String>,
    pub sysctls: StringMap,
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
    pub security: PodSecurity,
}

/// The pod's resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// Never zero: mappings without a host port are dropped where the wire is parsed.
    pub host_port: u16,
    /// None: every address of the host.
    pub host_ip: Option<IpAddr>,
}

/// Where a namespace comes from (CRI `NamespaceMode`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// Each container has its own.
    Container,
    /// The host's.
    Node,
    /// That of another container of the same pod.
    Target(ContainerId),
}

/// The namespaces of a pod or container (CRI `NamespaceOption`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespaceModes {
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// None: the host's user namespace.
    pub user: Option<UserNamespace>,
}

/// The id mappings of a pod's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub uids: IdMapping,
    pub gids: IdMapping,
}

/// A contiguous range of ids of a container as ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    pub container_id: u32,
    pub host_id: u32,
    pub length: u32,
}

/// A seccomp or AppArmor profile as a client names it (CRI `SecurityProfile`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// Nothing was asked for.
    #[default]
    Unset,
    Unconfined,
    RuntimeDefault,
    /// An absolute path (seccomp) or the name of a loaded profile (AppArmor).
    Localhost(String),
}

/// How supplementary groups are put together (CRI `SupplementalGroupsPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Those asked for, and those that the image's /etc/group gives the user.
    #[default]
    Merge,
    /// Those asked for.
    Strict,
}

/// SELinux label parts; empty ones are chosen by the host's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxLabel {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

/// What confines a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodSecurity {
    pub namespaces: NamespaceModes,
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<u32>,
    pub groups_policy: GroupsPolicy,
    /// Allows privileged containers in the pod.
    pub privileged: bool,
    pub seccomp: SecurityProfile,
    pub apparmor: SecurityProfile,
    pub selinux: Option<SelinuxLabel>,
}

/// Limits of a pod or container (CRI `LinuxContainerResources`). Zero and none both mean "not
/// asked for"; the wire cannot tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_period_us: Option<u64>,
    /// Negative: unlimited.
    pub cpu_quota_us: Option<i64>,
    pub cpu_shares: Option<u64>,
    /// Negative: unlimited.
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together; negative: unlimited.
    pub memory_swap_limit_bytes: Option<i64>,
    pub oom_score_adj: Option<i32>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Files of cgroup v2 and what is written to them.
    pub unified: StringMap,
}

/// A limit on huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As the kernel names it: `2MB`, `1GB`.
    pub page_size: String,
    pub limit_bytes: u64,
}

/// What names a container within its pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

/// The image a container is asked to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageSpec {
    /// A reference, or the id of an image.
    pub image: String,
    /// The name that the user wrote, when `image` is an id.
    pub user_specified_image: String,
    pub runtime_handler: String,
    pub annotations: StringMap,
}

impl ImageSpec {
    /// The name that the user wrote, rather than the id that it was resolved to.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.user_specified_image.as_str() {
            "" => &self.image,
            name => name,
        }
    }
}

/// What was asked of a container (CRI `ContainerConfig`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    pub image: ImageSpec,
    /// Replaces the image's entrypoint; empty: the image's.
    pub command: Vec<String>,
    /// Replaces the image's command; empty: the image's, when `command` is empty too.
    pub args: Vec<String>,
    /// Empty: the image's, or `/`.
    pub working_dir: String,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Fully qualified names of CDI devices, from the field and from annotations.
    pub cdi_devices: Vec<String>,
    pub labels: StringMap,
    pub annotations: StringMap,
    /// Relative to the pod's log directory; empty: no log.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: ContainerSecurity,
    /// A signal's name such as `SIGQUIT` or `SIGRTMIN+3`; none: the image's, or SIGTERM.
    pub stop_signal: Option<String>,
}

/// How mounts made on one side of a bind mount show on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MountPropagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A bind mount, or a mount of an image, in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mount {
    pub container_path: String,
    /// Empty when an image is mounted.
    pub host_path: String,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub selinux_relabel: bool,
    pub propagation: MountPropagation,
    pub uid_mappings: Vec<IdMapping>,
    pub gid_mappings: Vec<IdMapping>,
    pub image: Option<ImageSpec>,
    /// A directory or file inside `image`; empty: all of it.
    pub image_sub_path: String,
}

/// A device of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Device {
    pub container_path: String,
    pub host_path: String,
    /// Some of `r`, `w` and `m`.
    pub permissions: String,
}

/// What confines a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerSecurity {
    pub namespaces: NamespaceModes,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub add_ambient_capabilities: Vec<String>,
    pub privileged: bool,
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    /// Looked up in the image's /etc/passwd; empty: `run_as_user`, or the image's user.
    pub run_as_username: String,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<u32>,
    pub groups_policy: GroupsPolicy,
    pub no_new_privs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub seccomp: SecurityProfile,
    pub apparmor: SecurityProfile,
    pub selinux: Option<SelinuxLabel>,
}
