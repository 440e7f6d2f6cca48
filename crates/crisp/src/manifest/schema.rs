//! The part of the Pod API (core/v1) that is supported, field by field.
//!
//! A field that is not here is one that [`super::parse`] reports.

use crisp_model::Quantity;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A pod.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    pub(crate) spec: Spec,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    #[serde(default = "default_namespace")]
    pub(crate) namespace: String,
    /// Empty until one was made up.
    #[serde(default)]
    pub(crate) uid: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    pub(crate) containers: Vec<Container>,
    #[serde(default)]
    pub(crate) init_containers: Vec<Container>,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
    #[serde(default)]
    pub(crate) hostname: String,
    #[serde(default)]
    pub(crate) host_network: bool,
    #[serde(default, rename = "hostPID")]
    pub(crate) host_pid: bool,
    #[serde(default, rename = "hostIPC")]
    pub(crate) host_ipc: bool,
    #[serde(default)]
    pub(crate) share_process_namespace: bool,
    #[serde(default)]
    pub(crate) dns_policy: DnsPolicy,
    #[serde(default)]
    pub(crate) dns_config: Option<DnsConfig>,
    #[serde(default)]
    pub(crate) runtime_class_name: String,
    #[serde(default = "default_grace_seconds")]
    pub(crate) termination_grace_period_seconds: u32,
    #[serde(default)]
    pub(crate) security_context: PodSecurity,
    #[serde(default)]
    pub(crate) restart_policy: RestartPolicy,
}

/// What the kubelet does with containers that end. Without one it is always the last of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    #[default]
    Never,
}

fn default_grace_seconds() -> u32 {
    30
}

impl Spec {
    /// Init containers first, as they run.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}

/// Where a pod's resolv.conf comes from. There is no cluster's DNS here, without which the kubelet
/// gives the host's, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum DnsPolicy {
    #[default]
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    /// Nowhere but dnsConfig.
    None,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct DnsConfig {
    #[serde(default)]
    pub(crate) nameservers: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) searches: Vec<String>,
    #[serde(default)]
    pub(crate) options: Vec<DnsOption>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DnsOption {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) image_pull_policy: Option<PullPolicy>,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) working_dir: String,
    #[serde(default)]
    pub(crate) env: Vec<EnvVar>,
    #[serde(default)]
    pub(crate) ports: Vec<Port>,
    #[serde(default)]
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) security_context: ContainerSecurity,
    #[serde(default)]
    pub(crate) volume_mounts: Vec<VolumeMount>,
    #[serde(default)]
    pub(crate) stdin: bool,
    #[serde(default)]
    pub(crate) stdin_once: bool,
    #[serde(default)]
    pub(crate) tty: bool,
}

impl Container {
    /// What the API server would fill in: an image that may change under its name is pulled anew.
    pub(crate) fn pull_policy(&self) -> PullPolicy {
        let (name, digest) = match self.image.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (self.image.as_str(), None),
        };
        let last = name.rsplit('/').next().unwrap_or(name);
        let tag = last.split_once(':').map(|(_, tag)| tag);
        self.image_pull_policy.unwrap_or(match (tag, digest) {
            (None, None) | (Some("latest"), _) => PullPolicy::Always,
            _ => PullPolicy::IfNotPresent,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct EnvVar {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) value: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    pub(crate) container_port: u16,
    #[serde(default)]
    pub(crate) host_port: u16,
    #[serde(default, rename = "hostIP")]
    pub(crate) host_ip: Option<IpAddr>,
    #[serde(default)]
    pub(crate) protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// What a container is promised and what it may have at most, by the resource's name.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Resources {
    #[serde(default)]
    pub(crate) requests: BTreeMap<String, Quantity>,
    #[serde(default)]
    pub(crate) limits: BTreeMap<String, Quantity>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSecurity {
    pub(crate) run_as_user: Option<u32>,
    pub(crate) run_as_group: Option<u32>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) fs_group: Option<u32>,
    pub(crate) supplemental_groups: Vec<u32>,
    pub(crate) supplemental_groups_policy: GroupsPolicy,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) seccomp_profile: Option<Profile>,
    pub(crate) app_armor_profile: Option<Profile>,
    pub(crate) se_linux_options: Option<SelinuxOptions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum GroupsPolicy {
    #[default]
    Merge,
    Strict,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerSecurity {
    pub(crate) privileged: bool,
    pub(crate) run_as_user: Option<u32>,
    pub(crate) run_as_group: Option<u32>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) read_only_root_filesystem: bool,
    pub(crate) allow_privilege_escalation: Option<bool>,
    pub(crate) capabilities: Capabilities,
    pub(crate) proc_mount: ProcMount,
    pub(crate) seccomp_profile: Option<Profile>,
    pub(crate) app_armor_profile: Option<Profile>,
    pub(crate) se_linux_options: Option<SelinuxOptions>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub(crate) add: Vec<String>,
    pub(crate) drop: Vec<String>,
}

/// Whether parts of /proc are kept from a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum ProcMount {
    #[default]
    Default,
    Unmasked,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    pub(crate) r#type: ProfileType,
    #[serde(default)]
    pub(crate) localhost_profile: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum ProfileType {
    RuntimeDefault,
    Unconfined,
    Localhost,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SelinuxOptions {
    pub(crate) user: String,
    pub(crate) role: String,
    pub(crate) r#type: String,
    pub(crate) level: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    #[serde(default)]
    pub(crate) read_only: bool,
    #[serde(default)]
    pub(crate) recursive_read_only: RecursiveReadOnly,
    #[serde(default)]
    pub(crate) mount_propagation: Propagation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum RecursiveReadOnly {
    #[default]
    Disabled,
    IfPossible,
    Enabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// Exactly one of its sources is set.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) empty_dir: Option<EmptyDir>,
    #[serde(default)]
    pub(crate) host_path: Option<HostPath>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct EmptyDir {}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct HostPath {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) r#type: HostPathType,
}

/// What must be at a path of the host, or is made there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum HostPathType {
    /// Nothing is checked.
    #[default]
    #[serde(rename = "")]
    Unset,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_may_change_are_pulled_always() {
        for (image, policy) in [
            ("busybox", PullPolicy::Always),
            ("localhost:5000/a/busybox", PullPolicy::Always),
            ("busybox:latest", PullPolicy::Always),
            ("busybox:1.36", PullPolicy::IfNotPresent),
            ("localhost:5000/a/busybox:1", PullPolicy::IfNotPresent),
            ("busybox@sha256:00", PullPolicy::IfNotPresent),
        ] {
            let text = format!(r#"{{"name": "a", "image": "{image}"}}"#);
            let container: Container = serde_json::from_str(&text).unwrap();
            assert_eq!(container.pull_policy(), policy, "{image}");
        }
    }
}
