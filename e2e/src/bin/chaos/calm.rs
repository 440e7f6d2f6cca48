//! What holds for the whole node when nobody is in a step and nothing is wrong.

use crate::kubelet::Client;
use crate::world::World;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::{Figures, Process};
use std::collections::BTreeSet;

/// Descriptors that the daemon may have for each pod, beside those that it begins with.
const DESCRIPTORS_PER_POD: usize = 8;

/// The same for what is none of a pod's: connections, files in use.
const DESCRIPTORS_MORE: usize = 64;

/// What the daemon takes.
pub(crate) fn figures(world: &World) -> Result<Figures> {
    let pid = world.node.daemon_pid().context("the daemon does not run")?;
    Figures::of(Process(pid.try_into()?))
}

/// Waits for everybody to stand still, and compares the node with what it should have.
pub(crate) async fn check(world: &World) -> Result<()> {
    let _everybody = world.steps.write().await;
    let client = Client::connect(world).await?;
    let census = world.population.census();
    let pods = client
        .runtime()
        .list_pod_sandbox(ListPodSandboxRequest::default())
        .await?;
    let pods: BTreeSet<_> = pods
        .into_inner()
        .items
        .into_iter()
        .map(|pod| pod.id)
        .collect();
    ensure!(
        pods == census.pods,
        "pods are {pods:?}, not {:?}",
        census.pods
    );
    let containers = client
        .runtime()
        .list_containers(ListContainersRequest::default())
        .await?;
    let mut containers = containers.into_inner().containers;
    // The pod may have been doomed between two tries to create one.
    containers.retain(|container| {
        census.containers.contains(&container.id)
            || !census.doomed.contains(&container.pod_sandbox_id)
    });
    let containers: BTreeSet<_> = containers.into_iter().map(|found| found.id).collect();
    ensure!(
        containers == census.containers,
        "containers are {containers:?}, not {:?}",
        census.containers
    );
    let figures = figures(world)?;
    world.note("calm", format_args!("{} pods: {figures}", pods.len()));
    ensure!(
        figures.descriptors < DESCRIPTORS_MORE + pods.len() * DESCRIPTORS_PER_POD,
        "the daemon with {} pods has {figures}",
        pods.len()
    );
    Ok(())
}
