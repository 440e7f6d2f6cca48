//! Control groups: version, controllers, and what goes without.

use super::Finding;
use crisp_cgroup::{Controller, Hierarchies, Version};
use crisp_engine::Config;
use nix::unistd::{AccessFlags, access};
use std::path::Path;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let root = &config.cgroup.root;
    match Hierarchies::at(root) {
        Ok(hierarchies) => {
            let mut findings = vec![version(hierarchies.version())];
            findings.push(controllers(
                hierarchies.controllers(),
                hierarchies.version(),
            ));
            findings.extend(lacking(&hierarchies.lacks(), hierarchies.version()));
            findings.extend(read_only(root));
            findings
        }
        Err(error) => vec![Finding::missing(
            "cgroups",
            format!("none at {}: {error}", root.display()),
            "pods can be neither limited nor killed as a whole",
            "mount -t cgroup2 none /sys/fs/cgroup",
        )],
    }
}

fn version(version: Version) -> Finding {
    let subject = "cgroup version";
    match version {
        Version::V2 => Finding::fine(subject, "2"),
        Version::V1 => Finding::note(
            subject,
            "1",
            "kubelets from 1.35 on do not start unless failCgroupV1 is false, and limits such as memory.high are missing",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

fn controllers(controllers: &[Controller], version: Version) -> Finding {
    let names: Vec<&str> = controllers
        .iter()
        .map(|controller| controller.name(version))
        .collect();
    Finding::fine("cgroup controllers", names.join(" "))
}

fn lacking(controllers: &[Controller], version: Version) -> Vec<Finding> {
    let note = |controller: &Controller| {
        let name = controller.name(version);
        let remedy = match version {
            Version::V1 => format!(
                "mount -t cgroup -o {name} {name} /sys/fs/cgroup/{name}, if the kernel has it (/proc/cgroups)"
            ),
            Version::V2 => {
                format!("use a kernel that has {name}, and leave its version 1 hierarchy unmounted")
            }
        };
        let consequence = format!("there are no {}", controller.purpose());
        let consequence =
            consequence.replace("no freezing containers", "no freezing of containers");
        Finding::note(
            "cgroup controllers",
            format!("no {name}"),
            consequence,
            remedy,
        )
    };
    controllers.iter().map(note).collect()
}

/// Root may write everywhere but to what is mounted read-only.
fn read_only(root: &Path) -> Option<Finding> {
    let refused = nix::unistd::geteuid().is_root() && access(root, AccessFlags::W_OK).is_err();
    refused.then(|| {
        Finding::missing(
            "cgroups",
            format!("{} is read-only", root.display()),
            "no cgroup can be made for a pod",
            format!("mount -o remount,rw {}", root.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_missing_controller_says_what_goes_without() {
        let findings = lacking(&[Controller::HugeTlb, Controller::BlkIo], Version::V2);
        assert_eq!(findings[1].fact, "no io");
        assert!(matches!(&findings[0].verdict, Verdict::Note(advice)
            if advice.consequence == "there are no limits on huge pages"));
    }

    #[test]
    fn a_directory_without_hierarchies_is_no_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.cgroup.root = root.path().to_owned();
        assert!(findings(&config)[0].is_missing());
        std::fs::write(
            root.path().join("cgroup.controllers"),
            "cpu memory pids io cpuset hugetlb\n",
        )
        .unwrap();
        assert_eq!(findings(&config)[0].verdict, Verdict::Fine);
    }
}
