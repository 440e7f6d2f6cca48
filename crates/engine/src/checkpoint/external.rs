//! What of a container criu does not dump, because it is there again when the container is restored: the
//! namespaces of its pod, and mounts of what is not its own.
//!
//! Names are those that runc gives: a namespace is `extRootNetNS` or `extRootPidNS`, a mount is named by
//! its path.

use crisp_cgroup::MountInfo;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use std::collections::HashSet;
use std::path::Path;

/// The namespaces that criu can leave out: their names in `/proc/PID/ns` and in archives.
const NAMESPACES: [(LinuxNamespaceType, &str, &str); 2] = [
    (LinuxNamespaceType::Network, "net", "extRootNetNS"),
    (LinuxNamespaceType::Pid, "pid", "extRootPidNS"),
];

/// The namespaces that the spec has the container join. `inode` gives that of one by its name.
pub(super) fn namespaces(spec: &Spec, inode: impl Fn(&str) -> Option<u64>) -> Vec<String> {
    let joined: Vec<_> = of_spec(spec).filter(|it| it.path().is_some()).collect();
    let known = NAMESPACES.into_iter().filter_map(|(kind, name, key)| {
        joined.iter().find(|it| it.typ() == kind)?;
        Some(format!("{name}[{}]:{key}", inode(name)?))
    });
    known.collect()
}

/// The mounts of file systems that the container does not have for itself. Its own are the root, those
/// that the spec has made at a path, and what hides paths.
pub(super) fn mounts(spec: &Spec, mountinfo: &str) -> Vec<String> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(MountInfo::parse).collect();
    let made = made_by(spec);
    let own: HashSet<_> = mounts
        .iter()
        .filter(|mount| made.contains(Path::new(&mount.path)) && !is_cgroup(mount))
        .map(|mount| mount.device)
        .collect();
    let has_cgroup_namespace = of_spec(spec).any(|it| it.typ() == LinuxNamespaceType::Cgroup);
    let external = mounts.iter().filter(|mount| match is_cgroup(mount) {
        // criu mounts them anew in a namespace of the container's own.
        true => !has_cgroup_namespace,
        false => !own.contains(mount.device),
    });
    external
        .map(|mount| format!("mnt[{0}]:{0}", mount.path))
        .collect()
}

/// The namespaces that the container has of its own, or joins.
fn of_spec(spec: &Spec) -> impl Iterator<Item = &LinuxNamespace> {
    let linux = spec.linux().as_ref();
    let all = linux.and_then(|linux| linux.namespaces().as_ref());
    all.into_iter().flatten()
}

fn is_cgroup(mount: &MountInfo<'_>) -> bool {
    matches!(mount.file_system, "cgroup" | "cgroup2")
}

/// Where file systems are made for the container alone.
fn made_by(spec: &Spec) -> HashSet<&Path> {
    let mounts = spec.mounts().iter().flatten();
    let own = mounts.filter(|mount| !is_bind(mount));
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref());
    let mut made: HashSet<_> = own.map(|mount| mount.destination().as_path()).collect();
    made.extend(masked.into_iter().flatten().map(Path::new));
    made.insert(Path::new("/"));
    made
}

/// Whether a mount shows what is somewhere already.
pub(super) fn is_bind(mount: &oci_spec::runtime::Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind")
        || options.into_iter().any(|o| o == "bind" || o == "rbind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxNamespace;
    use serde_json::json;

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
                {"destination": "/a b", "type": "bind", "source": "/host", "options": ["rbind"]},
            ],
            "linux": {
                "maskedPaths": ["/proc/acpi", "/proc/keys"],
                "namespaces": [
                    {"type": "mount"},
                    {"type": "pid"},
                    {"type": "network", "path": "/run/netns/x"},
                    {"type": "ipc", "path": "/proc/1/ns/ipc"},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn mounts_of_what_is_not_the_containers_own_are_left_out() {
        let mountinfo = "\
153 154 0:71 / / rw - overlay overlay rw
226 153 0:83 / /proc rw,nosuid - proc proc rw
227 153 0:89 / /dev rw - tmpfs tmpfs rw
228 227 0:92 / /dev/shm rw - tmpfs shm rw
229 153 254:0 /run/hosts /etc/hosts rw shared:5 - ext4 /dev/vda rw
230 153 254:0 /host /a\\040b rw - ext4 /dev/vda rw
231 230 0:99 / /a\\040b/below rw - tmpfs other rw
232 153 0:94 / /sys/fs/cgroup ro - tmpfs tmpfs rw
233 232 0:35 /crisp/c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
234 232 0:38 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw
235 226 0:83 /bus /proc/bus ro - proc proc rw
236 226 0:95 / /proc/acpi ro - tmpfs tmpfs rw
237 226 0:89 /null /proc/keys rw - tmpfs tmpfs rw
";
        let external = [
            "/dev/shm",
            "/etc/hosts",
            "/a b",
            "/a b/below",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/unified",
        ];
        let expected = external.map(|path| format!("mnt[{path}]:{path}"));
        assert_eq!(mounts(&spec(), mountinfo), expected);
        let mut apart = spec();
        let namespaces = apart.linux_mut().as_mut().unwrap().namespaces_mut();
        let mut cgroup = LinuxNamespace::default();
        cgroup.set_typ(LinuxNamespaceType::Cgroup);
        namespaces.as_mut().unwrap().push(cgroup);
        assert_eq!(mounts(&apart, mountinfo), expected[..4]);
    }

    #[test]
    fn namespaces_that_are_joined_are_left_out() {
        let external = namespaces(&spec(), |name| (name == "net").then_some(7));
        assert_eq!(external, ["net[7]:extRootNetNS"]);
    }
}
