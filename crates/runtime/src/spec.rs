//! The OCI runtime spec as a plan of what to do: everything that can be decided without the kernel.

mod capabilities;
mod devices;
mod hooks;
mod mounts;
mod namespaces;
mod process;
mod sysctl;

pub(crate) use capabilities::CapabilityPlan;
pub(crate) use devices::Device;
pub(crate) use hooks::{Hook, Hooks, Point};
pub(crate) use mounts::{FsOption, IdMapped, MountPlan, Options, Source};
pub(crate) use namespaces::{IdMap, IdMaps, Namespaces, id_map_lines};
pub(crate) use process::{ProcessPlan, c_path};
pub(crate) use sysctl::Sysctl;

use crate::error::StartError;
use crisp_sys::mount::Propagation;
use crisp_sys::namespace::Kind;
use oci_spec::runtime::{Linux, Spec};
use std::path::{Component, Path, PathBuf};

/// A container as its spec wants it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) namespaces: Namespaces,
    pub(crate) id_maps: IdMaps,
    pub(crate) root: Root,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<Device>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    /// SELinux context of the file systems made for it.
    pub(crate) mount_label: Option<String>,
    pub(crate) hooks: Hooks,
    pub(crate) process: ProcessPlan,
}

/// The root file system.
#[derive(Debug)]
pub(crate) struct Root {
    /// Relative to the bundle.
    pub(crate) path: PathBuf,
    pub(crate) readonly: bool,
    pub(crate) propagation: Option<Propagation>,
}

impl Container {
    /// For the embedded runtime.
    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, StartError> {
        refuse_unsupported(spec)?;
        Self::from_any_spec(spec)
    }

    /// For a runtime that does more than the embedded one: what this one does not do is left out.
    pub(crate) fn from_any_spec(spec: &Spec) -> Result<Self, StartError> {
        let linux = spec.linux().clone().unwrap_or_default();
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| StartError::invalid("the spec has no process"))?;
        let namespaces = Namespaces::from_spec(&linux)?;
        let mounts = mounts::from_spec(spec.mounts().as_deref().unwrap_or_default())?;
        let (hostname, domainname) = names(spec, &namespaces)?;
        Ok(Self {
            id_maps: IdMaps::from_spec(
                linux.uid_mappings().as_deref(),
                linux.gid_mappings().as_deref(),
            ),
            root: root(spec, &linux)?,
            hostname,
            domainname,
            devices: devices::from_spec(linux.devices().as_deref().unwrap_or_default(), &mounts)?,
            sysctls: sysctl::from_spec(linux.sysctl().as_ref(), &namespaces)?,
            masked_paths: absolute_all(linux.masked_paths().as_deref())?,
            readonly_paths: absolute_all(linux.readonly_paths().as_deref())?,
            mount_label: linux.mount_label().clone().filter(|l| !l.is_empty()),
            hooks: Hooks::from_spec(spec)?,
            process: ProcessPlan::from_spec(process, linux.personality().as_ref())?,
            mounts,
            namespaces,
        })
    }
}

/// What this runtime does not do is refused, never left out silently.
fn refuse_unsupported(spec: &Spec) -> Result<(), StartError> {
    let linux = spec.linux().as_ref();
    let unsupported = [
        (
            "linux.intelRdt",
            linux.is_some_and(|l| l.intel_rdt().is_some()),
        ),
        (
            "linux.memoryPolicy",
            linux.is_some_and(|l| l.memory_policy().is_some()),
        ),
        (
            "linux.netDevices",
            linux.is_some_and(|l| l.net_devices().is_some()),
        ),
        (
            "linux.timeOffsets",
            linux.is_some_and(|l| l.time_offsets().is_some()),
        ),
    ];
    match unsupported.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(StartError::invalid(format!(
            "the embedded runtime does not support {name}"
        ))),
        None => Ok(()),
    }
}

fn root(spec: &Spec, linux: &Linux) -> Result<Root, StartError> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| StartError::invalid("the spec has no root"))?;
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
    Ok(Root {
        path: root.path().clone(),
        readonly: root.readonly().unwrap_or(false),
        propagation: match propagation {
            "" => None,
            word => Some(
                mounts::propagation(word)
                    .map(|(kind, _)| kind)
                    .ok_or_else(|| {
                        StartError::invalid(format!("linux.rootfsPropagation: {word:?} is unknown"))
                    })?,
            ),
        },
    })
}

/// Host and domain name belong to a UTS namespace: without one they would be the host's.
fn names(
    spec: &Spec,
    namespaces: &Namespaces,
) -> Result<(Option<String>, Option<String>), StartError> {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let names = (given(spec.hostname()), given(spec.domainname()));
    if names != (None, None) && !namespaces.has(Kind::Uts) {
        return Err(StartError::invalid(
            "hostname: would change the host's, as the spec has no UTS namespace",
        ));
    }
    Ok(names)
}

fn absolute_all(paths: Option<&[String]>) -> Result<Vec<PathBuf>, StartError> {
    paths
        .unwrap_or_default()
        .iter()
        .map(|path| absolute(Path::new(path)))
        .collect()
}

/// A path inside the container: absolute, without `..`.
fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    let plain = path
        .components()
        .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain {
        Ok(path.to_owned())
    } else {
        Err(StartError::invalid(format!(
            "{path:?} is not an absolute path without \"..\""
        )))
    }
}

#[cfg(test)]
mod tests;
