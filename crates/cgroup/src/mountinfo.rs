//! `/proc/self/mountinfo` → where the hierarchies are.

use std::collections::BTreeMap;

use crate::controller::{Controller, Version};
use crate::hierarchies::{Mount, MountKind};

/// Where administrators and systemd mount cgroups.
const USUAL_PLACE: &str = "/sys/fs/cgroup";

/// The hierarchies that are mounted, each once and in the order of their device numbers, from the text
/// of `mountinfo` (proc_pid_mountinfo(5)).
pub(crate) fn hierarchies(mountinfo: &str) -> Vec<Mount> {
    let mut chosen: BTreeMap<(u32, u32), Mount> = BTreeMap::new();
    for (device, mount) in mountinfo.lines().filter_map(line) {
        let usual = |mount: &Mount| mount.dir.starts_with(USUAL_PLACE);
        // Of several mounts of one hierarchy the usual place wins, then the latest: it covers others.
        match chosen.get(&device) {
            Some(other) if usual(other) && !usual(&mount) => {}
            _ => _ = chosen.insert(device, mount),
        }
    }
    chosen.into_values().collect()
}

/// One mount, from a line of proc_pid_mountinfo(5).
#[derive(Debug)]
pub struct MountInfo<'a> {
    /// Of the file system: `0:35`.
    pub device: &'a str,
    pub path: String,
    pub file_system: &'a str,
    /// Of the file system, with commas between them.
    super_options: &'a str,
}

impl<'a> MountInfo<'a> {
    /// None: it is not whole.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let (mut mount, mut file_system) = (mount.split(' ').skip(2), file_system.split(' '));
        Some(Self {
            device: mount.next()?,
            path: unescape(mount.nth(1)?),
            file_system: file_system.next()?,
            super_options: file_system.nth(1)?,
        })
    }
}

/// One line: the device number of the file system, and the mount when it is one of cgroups that crisp
/// has a use for.
fn line(line: &str) -> Option<((u32, u32), Mount)> {
    let mount = MountInfo::parse(line)?;
    let (major, minor) = mount.device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let kind = match mount.file_system {
        "cgroup2" => MountKind::Unified,
        "cgroup" => v1_kind(mount.super_options)?,
        _ => return None,
    };
    let dir = mount.path.into();
    Some((device, Mount { dir, kind }))
}

/// What the comma separated names say: the options of a mount's super block, or the name of its
/// directory. None: nothing that crisp uses.
pub(crate) fn v1_kind(names: &str) -> Option<MountKind> {
    let controllers: Vec<_> = names
        .split(',')
        .filter_map(|name| Controller::from_name(name, Version::V1))
        .collect();
    let named_systemd = names.split(',').any(|name| name == "name=systemd");
    match controllers.is_empty() {
        true if !named_systemd => None,
        _ => Some(MountKind::Controllers(controllers)),
    }
}

/// Blank, tab, line break and backslash are written as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (escaped, character) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        text = text.replace(escaped, character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use Controller::{BlkIo, Cpu, CpuAcct, Memory};

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
33 31 0:30 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
34 31 0:31 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 master:1 - cgroup cgroup rw,cpu,cpuacct
36 31 0:33 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio
37 31 0:34 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
38 31 0:35 / /mnt/a\\040b rw - cgroup cgroup rw,blkio
39 31 0:34 / /elsewhere/memory rw - cgroup cgroup rw,memory
40 23 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro
torn";

    fn controllers(dir: &str, controllers: &[Controller]) -> Mount {
        Mount {
            dir: dir.into(),
            kind: MountKind::Controllers(controllers.to_vec()),
        }
    }

    #[test]
    fn a_hybrid_hosts_hierarchies_are_found_once() {
        assert_eq!(
            hierarchies(HYBRID),
            [
                Mount {
                    dir: "/sys/fs/cgroup/unified".into(),
                    kind: MountKind::Unified
                },
                controllers("/sys/fs/cgroup/systemd", &[]),
                controllers("/sys/fs/cgroup/cpu,cpuacct", &[Cpu, CpuAcct]),
                controllers("/sys/fs/cgroup/memory", &[Memory]),
                controllers("/mnt/a b", &[BlkIo]),
            ]
        );
    }

    #[test]
    fn a_later_mount_on_the_same_place_wins() {
        let text = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 none rw\n\
                    31 1 0:26 /x /sys/fs/cgroup rw - cgroup2 none rw\n";
        assert_eq!(hierarchies(text).len(), 1);
        assert_eq!(hierarchies(""), []);
    }
}
