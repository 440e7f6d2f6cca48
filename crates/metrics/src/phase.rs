//! The phases of a start.

/// A part of what is done until a container runs, in the order in which they begin. The shim is started
/// beside the making of the pod's cgroups; a container's snapshot, the host's files and its cgroup are seen to
/// beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The pod's place in the network is chosen and its record written.
    PodRecord,
    /// The pod's directory with its `/etc` files.
    PodFiles,
    /// The shim is started.
    Shim,
    /// What is left to wait for, once these are done, until the cgroups of the pod and its pause process
    /// are there with their limits and the shim is asked for pause.
    PodCgroups,
    /// The shim comes up and makes the pause process in its namespaces.
    Namespaces,
    /// The pod's link, addresses, routes and host ports, or the CNI plugins.
    Network,
    /// The directories that a container writes to, and its root file system over them where that is mounted in
    /// advance.
    Snapshot,
    /// The sources of its mounts, and its devices.
    HostFiles,
    /// Its cgroup.
    ContainerCgroup,
    /// The volumes that its image declares, and images that it mounts.
    Volumes,
    /// Its seccomp filter and its OCI runtime spec.
    Spec,
    /// The limits of its cgroup.
    ContainerLimits,
    /// The files that its shim starts it from.
    Bundle,
    /// From the order to the shim to the container's own program, or to what an OCI runtime answers.
    RuntimeStart,
}

impl Phase {
    /// The value of the label `phase`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PodRecord => "pod_record",
            Self::PodFiles => "pod_files",
            Self::Shim => "shim",
            Self::PodCgroups => "pod_cgroups",
            Self::Namespaces => "namespaces",
            Self::Network => "network",
            Self::Snapshot => "snapshot",
            Self::HostFiles => "host_files",
            Self::Volumes => "volumes",
            Self::Spec => "spec",
            Self::ContainerCgroup => "container_cgroup",
            Self::ContainerLimits => "container_limits",
            Self::Bundle => "bundle",
            Self::RuntimeStart => "runtime_start",
        }
    }
}
