//! The pure function from configuration to OCI runtime spec.
//!
//! Everything that takes I/O (ids from the image's passwd, device numbers, the pod's namespaces) is
//! found out before and comes in as [`SpecInput`].

mod capabilities;
mod devices;
mod mounts;
mod process;
mod resources;

pub use capabilities::{CapabilitySet, capability, effective_capabilities};
pub use devices::HostDevice;
pub use mounts::{ImageMount, Volume};
pub use process::{ImageDefaults, arguments, environment, exec_process};
pub use resources::{linux_resources, merge};

use crate::{ContainerConfig, NamespaceMode, PodConfig, ResolvedUser};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp,
    RootBuilder, Spec, SpecBuilder,
};
use std::path::{Path, PathBuf};

/// The OCI runtime spec version that is written.
const OCI_VERSION: &str = "1.2.0";

/// What a container's spec is made of.
#[derive(Debug)]
pub struct SpecInput<'a> {
    pub pod: &'a PodConfig,
    pub container: &'a ContainerConfig,
    pub image: &'a ImageDefaults,
    pub user: &'a ResolvedUser,
    pub hostname: &'a str,
    pub namespaces: &'a NamespacePaths,
    pub files: &'a PodFiles,
    /// Within the hierarchies.
    pub cgroups_path: &'a str,
    /// The host has the unified hierarchy: the container gets a cgroup namespace.
    pub unified_cgroups: bool,
    /// Capabilities that the daemon holds and can give.
    pub held_capabilities: &'a CapabilitySet,
    /// Those of the configuration, or every one of the host for a privileged container.
    pub devices: &'a [HostDevice],
    /// What the configuration's mounts of images mount, in the order of the configuration.
    pub image_mounts: &'a [ImageMount],
    /// The volumes that the image declares.
    pub volumes: &'a [Volume],
    pub seccomp: Option<LinuxSeccomp>,
    pub labels: &'a SecurityLabels,
    /// None: no limit of the container's own.
    pub pids_limit: Option<i64>,
}

/// What the security modules of the kernel know a container by; none: by what its shim is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityLabels {
    /// Name of a loaded AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux context of its processes.
    pub selinux_process: Option<String>,
    /// SELinux context of the file systems that are made for it.
    pub selinux_files: Option<String>,
}

/// Where the namespaces that a container joins are found; none: the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePaths {
    pub network: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub user: Option<PathBuf>,
    /// The pod's shared, or another container's, pid namespace; unused when the container has its own.
    pub pid: Option<PathBuf>,
}

/// Files that the runtime provides to the containers of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

/// Why no spec can be made: each names the field of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("neither config.command, config.args nor the image names a command")]
    NoCommand,
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("the OCI runtime spec is inconsistent")]
    Oci(#[from] OciSpecError),
}

impl SpecError {
    fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field {
            field,
            reason: reason.into(),
        }
    }
}

/// The OCI runtime spec of a container.
///
/// # Errors
/// If the configuration contradicts itself or asks for what cannot be given.
pub fn container_spec(input: &SpecInput<'_>) -> Result<Spec, SpecError> {
    let security = &input.container.security;
    if security.privileged && !input.pod.security.privileged {
        return Err(SpecError::field(
            "linux.security_context.privileged",
            "a privileged container needs a privileged pod",
        ));
    }
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(security.readonly_rootfs)
        .build()?;
    let annotations = input.container.annotations.clone().into_iter();
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(process::container_process(input)?)
        .mounts(mounts::container_mounts(input)?)
        .annotations(annotations.collect::<std::collections::HashMap<_, _>>())
        .linux(linux(input)?)
        .build()?;
    // The builder gives a name of its own; the containers of a pod have the pod's.
    spec.set_hostname(None);
    Ok(spec)
}

fn linux(input: &SpecInput<'_>) -> Result<Linux, SpecError> {
    let security = &input.container.security;
    let mut resources = linux_resources(&input.container.resources);
    resources.set_devices(Some(devices::cgroup_rules(
        security.privileged,
        input.devices,
    )));
    if let Some(limit) = input.pids_limit {
        resources.set_pids(Some(resources::pids(limit)));
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .cgroups_path(input.cgroups_path)
        .resources(resources)
        .devices(devices::nodes(input.devices))
        .rootfs_propagation(mounts::root_propagation(&input.container.mounts))
        .build()?;
    // The builder fills these with defaults of its own, which are not what was asked for.
    let confined = |paths: &[String]| (!security.privileged).then(|| paths.to_vec());
    linux.set_masked_paths(confined(&security.masked_paths));
    linux.set_readonly_paths(confined(&security.readonly_paths));
    linux.set_mount_label(input.labels.selinux_files.clone());
    linux.set_seccomp(input.seccomp.clone().filter(|_| !security.privileged));
    if let Some(user) = &input.pod.security.namespaces.user {
        linux.set_uid_mappings(Some(mounts::mappings(&[user.uids])?));
        linux.set_gid_mappings(Some(mounts::mappings(&[user.gids])?));
    }
    Ok(linux)
}

fn namespaces(input: &SpecInput<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let paths = input.namespaces;
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)?];
    for (kind, path) in [
        (LinuxNamespaceType::User, &paths.user),
        (LinuxNamespaceType::Network, &paths.network),
        (LinuxNamespaceType::Ipc, &paths.ipc),
        (LinuxNamespaceType::Uts, &paths.uts),
    ] {
        if let Some(path) = path {
            all.push(namespace(kind, Some(path))?);
        }
    }
    match &input.container.security.namespaces.pid {
        NamespaceMode::Container => all.push(namespace(LinuxNamespaceType::Pid, None)?),
        NamespaceMode::Node => {}
        NamespaceMode::Pod | NamespaceMode::Target(_) => {
            let path = paths.pid.as_deref().ok_or_else(|| {
                SpecError::field(
                    "linux.security_context.namespace_options.pid",
                    "the pod has no pid namespace to share: it was made with another mode",
                )
            })?;
            all.push(namespace(LinuxNamespaceType::Pid, Some(path))?);
        }
    }
    if input.unified_cgroups && !input.container.security.privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    Ok(all)
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> Result<LinuxNamespace, SpecError> {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    let builder = match path {
        Some(path) => builder.path(path),
        None => builder,
    };
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests;
