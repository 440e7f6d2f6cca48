//! What another death has left for a daemon to find.

use super::requests::*;
use super::{Story, life, lost};
use crate::finding::{Finding, stuck};
use crate::kubelet::{Kubelet, Outcome};
use crate::model::{Flux, Known, PodModel};
use crisp_e2e::{Node, until};
use serde_json::Value;
use std::fs;

const STORY: Story = Story::Wrecks;

pub(super) async fn play(k: &mut Kubelet) -> Result<(), Finding> {
    pull(k, QUIET).await?;
    half_made_pod(k).await?;
    if let Outcome::PodLost = half_made_container(k).await? {
        return lost::play(k, STORY).await;
    }
    shim_that_ends(k).await?;
    life::remove_pod(k, QUIET).await?;
    shim_that_ended(k).await?;
    life::remove_pod(k, "RemovePodSandbox of a pod that was lost").await?;
    host_that_lost_power(k).await?;
    life::remove_pod(k, "RemovePodSandbox after a reboot of the host").await?;
    if let Outcome::PodLost = unreadable_container(k).await? {
        return lost::play(k, STORY).await;
    }
    unreadable_pod(k).await
}

async fn half_made_pod(k: &mut Kubelet) -> Result<(), Finding> {
    let run = async |node: &Node| try_run_pod(node, STORY, 0).await.map(drop);
    k.die_at("run-pod.wired", run).await?;
    k.restart("a restart over a half-made pod").await?;
    k.settle().await
}

async fn half_made_container(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    run_pod(k, QUIET, STORY).await?;
    let pod = known_pod(k)?;
    let create = async |node: &Node| pod.handle(node).create("idle", |_| ()).await.map(drop);
    k.die_at("create.cgroup-made", create).await?;
    k.restart("a restart over a half-made container").await?;
    k.settle_pod().await
}

/// With a container that has ended and one that runs.
async fn add_containers(k: &mut Kubelet) -> Result<(), Finding> {
    create(k, QUIET, "short").await?;
    run_to_its_end(k, QUIET, "short", 3).await?;
    create(k, QUIET, "last").await?;
    start(k, QUIET, "last").await.map(drop)
}

/// The daemon sees it.
async fn shim_that_ends(k: &mut Kubelet) -> Result<(), Finding> {
    add_containers(k).await?;
    let pod = known_pod(k)?;
    let shim = k.node.shim(&pod.id).map_err(stuck)?;
    let end = async |node: &Node| {
        shim.kill();
        let down = until("the pod is taken down", async || {
            match pod.handle(node).status().await {
                Ok(_) => is_on_record_as_down(node, &pod.id).then_some(Ok(())),
                Err(error) => Some(Err(internal(error))),
            }
        });
        down.await.map_err(internal)?
    };
    k.step("the end of a shim", Flux::Pod, end).await?;
    is_lost(k, &pod).await
}

/// Written when all of the pod has been taken down, as the last but one of what a daemon does.
fn is_on_record_as_down(node: &Node, pod: &str) -> bool {
    let record = fs::read(node.pod_record(pod)).unwrap_or_default();
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    record["state"] == "NotReady" && record["shim_pid"].is_null() && record["network"].is_null()
}

/// The daemon was dead meanwhile.
async fn shim_that_ended(k: &mut Kubelet) -> Result<(), Finding> {
    run_pod(k, QUIET, STORY).await?;
    add_containers(k).await?;
    let pod = known_pod(k)?;
    let shim = k.node.shim(&pod.id).map_err(stuck)?;
    k.node.kill().map_err(stuck)?;
    shim.kill();
    k.restart("a restart without a shim").await?;
    is_lost(k, &pod).await
}

async fn host_that_lost_power(k: &mut Kubelet) -> Result<(), Finding> {
    run_pod(k, QUIET, STORY).await?;
    add_containers(k).await?;
    let pod = known_pod(k)?;
    k.node.kill().map_err(stuck)?;
    k.node.reboot().map_err(stuck)?;
    // It may not have been synced yet.
    k.model.images.clear();
    k.restart("a restart after a reboot of the host").await?;
    is_lost(k, &pod).await
}

/// The pod is as if there had never been such a container.
async fn unreadable_container(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    pull(k, QUIET).await?;
    run_pod(k, QUIET, STORY).await?;
    add_containers(k).await?;
    let (pod, container) = (known_pod(k)?, id_of(k, "last")?);
    k.node.kill().map_err(stuck)?;
    let record = k.node.container_record(&pod.id, &container);
    fs::write(record, "{").map_err(stuck)?;
    pod_of(k)?.containers.remove("last");
    k.restart("a restart over a container's record that cannot be read")
        .await?;
    k.settle_pod().await
}

/// It was never there.
async fn unreadable_pod(k: &mut Kubelet) -> Result<(), Finding> {
    let pod = known_pod(k)?;
    k.node.kill().map_err(stuck)?;
    fs::write(k.node.pod_record(&pod.id), "{").map_err(stuck)?;
    k.model.pod = None;
    k.restart("a restart over a pod's record that cannot be read")
        .await?;
    k.settle().await
}

async fn is_lost(k: &mut Kubelet, pod: &PodModel) -> Result<(), Finding> {
    pod_of(k)?.is_ready = false;
    // Nobody saw how it ended.
    set_state(k, "last", Known::Exited { code: 255 })?;
    k.rest().await;
    k.settle().await?;
    lost::is_reported(&k.node, pod).await
}
