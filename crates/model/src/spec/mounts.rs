//! Mounts: those that every container has, those of the pod, and those asked for.

use super::{SpecError, SpecInput};
use crate::{Mount as Asked, MountPropagation, NamespaceMode};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};
use std::path::{Component, Path, PathBuf};

/// All mounts of a container, parents before what is mounted below them. One that was asked for takes
/// the place of a default one at the same path.
pub(super) fn container_mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let asked: Vec<Mount> = input
        .container
        .mounts
        .iter()
        .map(bind)
        .collect::<Result<_, _>>()?;
    let asked_for = |path: &Path| asked.iter().any(|m| m.destination() == path);
    let mut all = system_mounts(input)?;
    all.extend(pod_files(input)?);
    all.extend(input.volumes.iter().cloned());
    all.retain(|m| !asked_for(m.destination()));
    let mut asked = asked;
    asked.sort_by_key(|m| m.destination().components().count());
    all.extend(asked);
    Ok(all)
}

/// The propagation of the container's root, as its mounts need it.
pub(super) fn root_propagation(mounts: &[Asked]) -> &'static str {
    let any = |wanted| mounts.iter().any(|m| m.propagation == wanted);
    if any(MountPropagation::Bidirectional) {
        "rshared"
    } else if any(MountPropagation::HostToContainer) {
        "rslave"
    } else {
        "rprivate"
    }
}

fn system_mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let privileged = input.container.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        )?,
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        )?,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        )?,
    ];
    if input.container.security.namespaces.ipc == NamespaceMode::Node {
        all.push(mount(
            "/dev/shm",
            "bind",
            "/dev/shm",
            &["rbind", "rprivate", "rw"],
        )?);
    }
    Ok(all)
}

/// Files that the runtime provides. They are writable unless the root is not, as docker has it.
fn pod_files(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let access = if input.container.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let files = input.files;
    [
        ("/etc/hosts", &files.hosts),
        ("/etc/hostname", &files.hostname),
        ("/etc/resolv.conf", &files.resolv_conf),
    ]
    .into_iter()
    .map(|(path, source)| mount(path, "bind", source, &["rbind", "rprivate", access]))
    .collect()
}

fn bind(asked: &Asked) -> Result<Mount, SpecError> {
    let destination = destination(&asked.container_path)?;
    if !asked.host_path.starts_with('/') {
        let reason = format!("{:?} is not an absolute path", asked.host_path);
        return Err(SpecError::field("mounts.host_path", reason));
    }
    let propagation = match asked.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let mut mount = mount(
        destination,
        "bind",
        &asked.host_path,
        &["rbind", propagation, access(asked)?],
    )?;
    if !asked.uid_mappings.is_empty() || !asked.gid_mappings.is_empty() {
        mount.set_uid_mappings(Some(mappings(&asked.uid_mappings)?));
        mount.set_gid_mappings(Some(mappings(&asked.gid_mappings)?));
    }
    Ok(mount)
}

fn access(asked: &Asked) -> Result<&'static str, SpecError> {
    match (asked.readonly, asked.recursive_read_only) {
        (false, false) => Ok("rw"),
        (true, false) => Ok("ro"),
        (true, true) if asked.propagation == MountPropagation::Private => Ok("rro"),
        _ => Err(SpecError::field(
            "mounts.recursive_read_only",
            format!(
                "{:?} must be readonly too, and its propagation private",
                asked.container_path
            ),
        )),
    }
}

/// An absolute path without `..`, made plain.
fn destination(path: &str) -> Result<PathBuf, SpecError> {
    let refuse = |why| SpecError::field("mounts.container_path", format!("{path:?} {why}"));
    let mut plain = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => return Err(refuse("contains \"..\"")),
            _ => {}
        }
    }
    if plain == Path::new("/") {
        return Err(refuse(
            "is empty or the root: a mount cannot replace the root file system",
        ));
    }
    Ok(plain)
}

fn mappings(mappings: &[crate::IdMapping]) -> Result<Vec<LinuxIdMapping>, SpecError> {
    let build = |m: &crate::IdMapping| {
        LinuxIdMappingBuilder::default()
            .container_id(m.container_id)
            .host_id(m.host_id)
            .size(m.length)
            .build()
    };
    Ok(mappings.iter().map(build).collect::<Result<_, _>>()?)
}

fn mount(
    destination: impl Into<PathBuf>,
    kind: &str,
    source: impl Into<PathBuf>,
    options: &[&str],
) -> Result<Mount, SpecError> {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    Ok(MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options)
        .build()?)
}
