//! Mounts: those that every container has, those of the pod, and those asked for.

use super::{SpecError, SpecInput};
use crate::{IdMapping, Mount as Asked, MountPropagation, NamespaceMode};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};
use std::path::{Component, Path, PathBuf};

/// An image, or a part of it, as a mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMount {
    pub container_path: String,
    /// Directories that are laid over each other, topmost first; or a single file.
    pub places: Vec<PathBuf>,
    /// Empty: those of the pod's user namespace, if it has one.
    pub uid_mappings: Vec<crate::IdMapping>,
    pub gid_mappings: Vec<crate::IdMapping>,
}

/// A directory of a container's own, for a volume that its image declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Plain and absolute.
    pub container_path: PathBuf,
    pub place: PathBuf,
}

/// All mounts of a container, parents before what is mounted below them. One that was asked for takes
/// the place of a default one at the same path.
pub(super) fn container_mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let mounts = input.container.mounts.iter();
    let binds = mounts.filter(|asked| asked.image.is_none()).map(bind);
    let images = input.image_mounts.iter().map(|asked| image(asked, input));
    let asked: Vec<Mount> = binds.chain(images).collect::<Result<_, _>>()?;
    let asked_for = |path: &Path| asked.iter().any(|m| m.destination() == path);
    let mut all = system_mounts(input)?;
    all.extend(volumes(input)?);
    all.extend(pod_files(input)?);
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
        map_owners(&mut mount, &asked.uid_mappings, &asked.gid_mappings)?;
    }
    Ok(mount)
}

fn map_owners(mount: &mut Mount, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), SpecError> {
    mount.set_uid_mappings(Some(mappings(uids)?));
    mount.set_gid_mappings(Some(mappings(gids)?));
    Ok(())
}

/// As the pod's user namespace has it, if the pod has one.
fn map_as_pod(mount: &mut Mount, input: &SpecInput<'_>) -> Result<(), SpecError> {
    match &input.pod.security.namespaces.user {
        Some(user) => map_owners(mount, &[user.uids], &[user.gids]),
        None => Ok(()),
    }
}

/// The files of volumes have the owners that the image gives them.
fn volumes(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let mut volumes: Vec<&Volume> = input.volumes.iter().collect();
    volumes.sort_by_key(|volume| volume.container_path.components().count());
    let make = |volume: &Volume| {
        let path = &volume.container_path;
        let options = ["bind", "rprivate", "rw"];
        let mut mount = mount(path, "bind", &volume.place, &options)?;
        map_as_pod(&mut mount, input)?;
        Ok(mount)
    };
    volumes.into_iter().map(make).collect()
}

/// Images are mounted read-only whatever was asked for.
fn image(asked: &ImageMount, input: &SpecInput<'_>) -> Result<Mount, SpecError> {
    let destination = destination(&asked.container_path)?;
    let mut mount = match asked.places.as_slice() {
        [place] => mount(
            destination,
            "bind",
            place,
            &["bind", "rprivate", "ro", "nosuid", "nodev"],
        )?,
        places => {
            let lower_dirs = format!("lowerdir={}", joined(places)?);
            mount(
                destination,
                "overlay",
                "overlay",
                &["ro", "nosuid", "nodev", &lower_dirs],
            )?
        }
    };
    match (asked.uid_mappings.as_slice(), asked.gid_mappings.as_slice()) {
        ([], []) => map_as_pod(&mut mount, input)?,
        (uids, gids) => map_owners(&mut mount, uids, gids)?,
    }
    Ok(mount)
}

/// Directories as the option `lowerdir` takes them; commas would end the option.
fn joined(places: &[PathBuf]) -> Result<String, SpecError> {
    let mut text = String::new();
    for (index, place) in places.iter().enumerate() {
        let place = place.to_str().ok_or_else(|| {
            SpecError::field("mounts.image_sub_path", format!("{place:?} is not UTF-8"))
        })?;
        if index > 0 {
            text.push(':');
        }
        for character in place.chars() {
            if matches!(character, ':' | ',' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
    }
    Ok(text)
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

pub(super) fn mappings(mappings: &[crate::IdMapping]) -> Result<Vec<LinuxIdMapping>, SpecError> {
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
