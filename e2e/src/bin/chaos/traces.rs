//! What is left of a pod or container that was removed.

use anyhow::{Result, ensure};
use crisp_e2e::Node;
use std::fs;
use std::path::{Path, PathBuf};

/// Checks that nothing is left of a container.
pub(crate) fn of_container(node: &Node, pod: &str, id: &str) -> Result<()> {
    let mut places = vec![
        node.run_dir()
            .join("pods")
            .join(pod)
            .join("containers")
            .join(id),
        node.root_dir().join("containers").join(id),
        node.root_dir()
            .join("pods")
            .join(pod)
            .join(format!("containers/{id}.json")),
    ];
    places.extend(cgroups(node, &format!("{}/{id}", cgroup_name(pod))));
    none(&places)
}

/// Checks that nothing is left of a pod.
pub(crate) fn of_pod(node: &Node, id: &str) -> Result<()> {
    let mut places = vec![
        node.run_dir().join("pods").join(id),
        node.root_dir().join("pods").join(id),
        node.netns_dir().join(format!("crisp-{id}")),
    ];
    places.extend(cgroups(node, &cgroup_name(id)));
    none(&places)
}

/// Checks that a running pod has what is looked for in vain after its removal.
pub(crate) fn has_cgroup(node: &Node, id: &str) -> Result<()> {
    let there = cgroups(node, &cgroup_name(id))
        .iter()
        .any(|dir| dir.exists());
    ensure!(there, "the pod has no cgroup");
    Ok(())
}

/// What the daemon calls the cgroup of a pod.
fn cgroup_name(pod: &str) -> String {
    format!("crisp-{pod:.13}")
}

/// Where a cgroup would be, in whichever hierarchy.
fn cgroups(node: &Node, name: &str) -> Vec<PathBuf> {
    let parent = node.cgroup_parent();
    let inside = Path::new(parent.trim_start_matches('/')).join(name);
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = hierarchies
        .map(|entry| entry.path())
        .chain([root.to_owned()]);
    hierarchies
        .map(|hierarchy| hierarchy.join(&inside))
        .collect()
}

fn none(places: &[PathBuf]) -> Result<()> {
    let left: Vec<_> = places.iter().filter(|path| path.exists()).collect();
    ensure!(left.is_empty(), "left after the removal: {left:?}");
    Ok(())
}
