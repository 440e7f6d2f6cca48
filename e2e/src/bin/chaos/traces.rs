//! What is left of a pod or container that was removed.

use anyhow::{Result, ensure};
use crisp_e2e::{Node, leftovers};
use std::path::PathBuf;

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
    let there = cgroups(node, &cgroup_name(id)).any(|dir| dir.exists());
    ensure!(there, "the pod has no cgroup");
    Ok(())
}

/// What the daemon calls the cgroup of a pod.
fn cgroup_name(pod: &str) -> String {
    format!("crisp-{pod:.13}")
}

/// Where a cgroup of the node's would be.
fn cgroups(node: &Node, name: &str) -> impl Iterator<Item = PathBuf> {
    leftovers::places_of_cgroup(&format!("{}/{name}", node.cgroup_parent()))
}

fn none(places: &[PathBuf]) -> Result<()> {
    let left: Vec<_> = places.iter().filter(|path| path.exists()).collect();
    ensure!(left.is_empty(), "left after the removal: {left:?}");
    Ok(())
}
