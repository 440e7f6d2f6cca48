//! A client that only looks: lists and figures, and what the daemon tells of its own accord.

use crate::kubelet::{Client, Kubelet, Want, no_refusal};
use crate::world::World;
use anyhow::{Result, ensure};
use crisp_cri_api::v1::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Looks again and again until the end.
pub(crate) async fn look(mut kubelet: Kubelet) -> Result<()> {
    let world = kubelet.world.clone();
    while !world.is_ending() {
        world.pause(kubelet.random.milliseconds(200, 1500)).await;
        let _step = world.steps.read().await;
        let mut kubelet = kubelet.fork();
        compare_pods(&mut kubelet).await?;
        compare_containers(&mut kubelet).await?;
        ask_for_figures(&mut kubelet).await?;
    }
    Ok(())
}

async fn compare_pods(kubelet: &mut Kubelet) -> Result<()> {
    let before = kubelet.world.population.census();
    let listed = kubelet
        .settle(
            Want::new("ListPodSandbox", "all"),
            no_refusal,
            async |client, patience| {
                let request = patience.request(ListPodSandboxRequest::default());
                let answer = client.runtime().list_pod_sandbox(request).await;
                answer.map(|answer| answer.into_inner().items)
            },
        )
        .await?;
    let listed = listed.must()?.into_iter().map(|pod| pod.id).collect();
    let after = kubelet.world.population.census();
    compare(&listed, &before.pods, &after.pods, &before.gone)
}

async fn compare_containers(kubelet: &mut Kubelet) -> Result<()> {
    let before = kubelet.world.population.census();
    let listed = kubelet
        .settle(
            Want::new("ListContainers", "all"),
            no_refusal,
            async |client, patience| {
                let request = patience.request(ListContainersRequest::default());
                let answer = client.runtime().list_containers(request).await;
                answer.map(|answer| answer.into_inner().containers)
            },
        )
        .await?;
    let listed = listed
        .must()?
        .into_iter()
        .map(|container| container.id)
        .collect();
    let after = kubelet.world.population.census();
    compare(&listed, &before.containers, &after.containers, &before.gone)
}

/// Who was there all the while is listed; who was gone before is not.
fn compare(
    listed: &BTreeSet<String>,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
    gone: &BTreeSet<String>,
) -> Result<()> {
    let stayed = before.intersection(after);
    let missing: Vec<_> = stayed.filter(|id| !listed.contains(*id)).collect();
    ensure!(missing.is_empty(), "not listed: {missing:?}");
    let risen: Vec<_> = listed.intersection(gone).collect();
    ensure!(risen.is_empty(), "removed and listed: {risen:?}");
    Ok(())
}

async fn ask_for_figures(kubelet: &mut Kubelet) -> Result<()> {
    let want = Want::new("figures", "of all");
    let settled = kubelet
        .settle(want, no_refusal, async |client, patience| {
            let mut runtime = client.runtime();
            runtime
                .status(patience.request(StatusRequest::default()))
                .await?;
            runtime
                .list_container_stats(patience.request(ListContainerStatsRequest::default()))
                .await?;
            runtime
                .list_pod_sandbox_stats(patience.request(ListPodSandboxStatsRequest::default()))
                .await?;
            client
                .images()
                .image_fs_info(patience.request(ImageFsInfoRequest {}))
                .await
                .map(drop)
        })
        .await?;
    settled.must()
}

/// Listens to events until the end. On one connection those of a container come in their order, each once.
pub(crate) async fn listen(world: Arc<World>, client: Client) -> Result<()> {
    while !world.is_ending() {
        let events = client
            .runtime()
            .get_container_events(GetEventsRequest {})
            .await;
        let Ok(events) = events else {
            world.pause(Duration::from_millis(100)).await;
            continue;
        };
        let (mut events, mut last) = (events.into_inner(), BTreeMap::new());
        let follow = async {
            while let Ok(Some(event)) = events.message().await {
                let kind = event.container_event_type;
                let before = last.insert(event.container_id.clone(), kind);
                ensure!(
                    before.is_none_or(|before| before < kind),
                    "event {kind} of {} after {before:?}",
                    event.container_id
                );
            }
            Ok(())
        };
        tokio::select! {
            followed = follow => followed?,
            () = world.pause(Duration::from_secs(24 * 3600)) => {}
        }
    }
    Ok(())
}
