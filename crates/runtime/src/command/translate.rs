//! A spec as the embedded runtime takes it, as one that any runtime takes.

use crate::error::{Context, StartError};
use crate::stage_one::limits::OOM_SCORE_ADJ;
use oci_spec::runtime::{Mount, MountBuilder, Process, Spec};
use std::fs;
use std::path::{Path, PathBuf};

/// The version of the OCI runtime spec that is left when all is done that later ones brought: runtimes
/// refuse what is newer than they are.
pub(super) const VERSION: &str = "1.0.2";

/// The root file system is there already, with the bundle's own below it.
pub(super) fn set_root(spec: &mut Spec, path: PathBuf) {
    if let Some(root) = spec.root_mut() {
        root.set_path(path);
    }
}

/// The runtime sets the value that its caller has: what the kernel allows of the one asked for.
pub(super) fn keep_oom_score(spec: &mut Spec) -> Result<(), StartError> {
    match spec.process_mut() {
        Some(process) => keep_oom_score_of(process),
        None => Ok(()),
    }
}

/// The same for a further process.
pub(super) fn keep_oom_score_of(process: &mut Process) -> Result<(), StartError> {
    let text = fs::read_to_string(OOM_SCORE_ADJ).step("read", OOM_SCORE_ADJ)?;
    process.set_oom_score_adj(text.trim().parse().ok());
    Ok(())
}

/// Limits of huge pages are in force already where the kernel counts them by cgroup. Where it does not,
/// runtimes refuse even that of zero which a kubelet sends with every container.
pub(super) fn drop_hugepage_limits(spec: &mut Spec) {
    let linux = spec.linux_mut().as_mut();
    if let Some(resources) = linux.and_then(|linux| linux.resources_mut().as_mut()) {
        resources.set_hugepage_limits(None);
    }
}

/// Has the runtime bind what is mounted at `source` already.
pub(super) fn bind_instead(spec: &mut Spec, place: usize, source: PathBuf) {
    let mount = spec
        .mounts_mut()
        .as_mut()
        .and_then(|all| all.get_mut(place));
    if let Some(mount) = mount {
        let options = mount.options().as_deref().unwrap_or_default();
        let options = options.iter().filter_map(|word| option_of_bind(word));
        let mut options: Vec<String> = options.map(str::to_owned).collect();
        options.insert(0, "rbind".to_owned());
        mount.set_options(Some(options));
        mount.set_typ(Some("bind".to_owned()));
        mount.set_source(Some(source));
        mount.set_uid_mappings(None);
        mount.set_gid_mappings(None);
    }
}

/// An option of a mount that was made with all of them, for its clone. What holds for a whole tree holds
/// for the clone's as well.
fn option_of_bind(word: &str) -> Option<&str> {
    match word {
        "bind" | "rbind" | "idmap" | "ridmap" => None,
        "rro" => Some("ro"),
        "rnosuid" => Some("nosuid"),
        "rnodev" => Some("nodev"),
        "rnoexec" => Some("noexec"),
        "rrw" | "rsuid" | "rdev" | "rexec" => None,
        data if data.contains('=') => None,
        other => Some(other),
    }
}

/// The pod's /dev/shm comes right after /dev, so that a mount of the spec at the same path or below
/// covers it.
pub(super) fn insert_shm(spec: &mut Spec, source: PathBuf) -> Result<(), StartError> {
    let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec"].map(str::to_owned);
    let shm = MountBuilder::default()
        .destination("/dev/shm")
        .typ("bind")
        .source(source)
        .options(options)
        .build()
        .map_err(|error| StartError::invalid(error.to_string()))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let is_dev = |mount: &Mount| mount.destination() == Path::new("/dev");
    let place = mounts.iter().position(is_dev).map_or(0, |dev| dev + 1);
    mounts.insert(place, shm);
    spec.set_mounts(Some(mounts));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mounts: serde_json::Value) -> Spec {
        let text = serde_json::json!({ "ociVersion": "1.2.0", "mounts": mounts });
        serde_json::from_value(text).unwrap()
    }

    fn mounts(spec: &Spec) -> Vec<(String, Vec<String>)> {
        let mounts = spec.mounts().as_deref().unwrap();
        let described = mounts.iter().map(|mount| {
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            let options = mount.options().clone().unwrap_or_default();
            (source.display().to_string(), options)
        });
        described.collect()
    }

    #[test]
    fn a_mount_that_was_made_before_is_bound_with_options_that_every_runtime_knows() {
        let mut spec = spec(serde_json::json!([
            { "destination": "/a", "type": "overlay", "source": "overlay",
              "options": ["ro", "nosuid", "lowerdir=/x:/y"] },
            { "destination": "/b", "type": "bind", "source": "/b",
              "options": ["rbind", "rprivate", "rro"],
              "uidMappings": [{ "containerID": 0, "hostID": 1000, "size": 1 }] },
        ]));
        bind_instead(&mut spec, 0, "/w/0".into());
        bind_instead(&mut spec, 1, "/w/1".into());
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let expected = [
            ("/w/0".to_owned(), words("rbind ro nosuid")),
            ("/w/1".to_owned(), words("rbind rprivate ro")),
        ];
        assert_eq!(mounts(&spec), expected);
        assert!(spec.mounts().as_ref().unwrap()[1].uid_mappings().is_none());
    }

    #[test]
    fn other_limits_than_those_of_huge_pages_are_kept() {
        let text = serde_json::json!({
            "ociVersion": "1.2.0",
            "linux": {"resources": {
                "memory": {"limit": 4096},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            }},
        });
        let mut spec: Spec = serde_json::from_value(text).unwrap();
        drop_hugepage_limits(&mut spec);
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        assert!(resources.hugepage_limits().is_none());
        assert_eq!(resources.memory().unwrap().limit(), Some(4096));
    }

    #[test]
    fn the_pods_shm_is_covered_by_what_was_asked_for() {
        let mut spec = spec(serde_json::json!([
            { "destination": "/dev", "source": "tmpfs" },
            { "destination": "/dev/shm/x", "source": "/x" },
        ]));
        insert_shm(&mut spec, "/w/shm".into()).unwrap();
        let sources: Vec<_> = mounts(&spec)
            .into_iter()
            .map(|(source, _)| source)
            .collect();
        assert_eq!(sources, ["tmpfs", "/w/shm", "/x"]);
    }
}
