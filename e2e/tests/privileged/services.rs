//! The services as a whole: all their RPCs, their lists in one piece and in several, and what they echo.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::Node;
use prost::Message;
use std::collections::BTreeSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

/// What a client of a later release sends: a field that nobody knows yet.
#[derive(Clone, PartialEq, Message)]
struct Later {
    #[prost(string, tag = "5000")]
    unknown: String,
}

const RUNTIME_RPCS: [&str; 35] = [
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "StreamPodSandboxes",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "StreamContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "StreamContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "StreamPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
    "CheckpointContainer",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "StreamPodSandboxMetrics",
    "RuntimeConfig",
    "UpdatePodSandboxResources",
];
const IMAGE_RPCS: [&str; 6] = [
    "ListImages",
    "StreamImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
    "ImageFsInfo",
];

/// How an RPC answers a message that has nothing but an unknown field, if that.
pub(crate) async fn answer(channel: &Channel, path: &str, unknown: &str) -> Result<Code> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let message = Later {
        unknown: unknown.to_owned(),
    };
    let codec = ProstCodec::<Later, ()>::default();
    // On the wire an answer of one message is a stream of one.
    let called = client
        .server_streaming(Request::new(message), PathAndQuery::try_from(path)?, codec)
        .await;
    let mut stream = match called {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(status.code()),
    };
    // Events come when something happens.
    if path.ends_with("/GetContainerEvents") {
        return Ok(Code::Ok);
    }
    Ok(stream.message().await.err().map_or(Code::Ok, |e| e.code()))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_every_rpc_is_served_and_tolerates_what_it_does_not_know() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    pod.start("c", |_| ()).await?;
    let endpoint = Endpoint::from_shared(format!("unix://{}", node.socket().display()))?;
    let channel = endpoint.connect().await?;
    let runtime = RUNTIME_RPCS.map(|rpc| format!("/runtime.v1.RuntimeService/{rpc}"));
    let images = IMAGE_RPCS.map(|rpc| format!("/runtime.v1.ImageService/{rpc}"));
    for path in runtime.iter().chain(&images) {
        let plain = answer(&channel, path, "").await?;
        let later = answer(&channel, path, "text").await?;
        ensure!(plain == later, "{path}: {plain:?} and {later:?}");
        let expected = [Code::Ok, Code::InvalidArgument];
        ensure!(expected.contains(&plain), "{path}: {plain:?}");
    }
    let unknown = answer(&channel, "/runtime.v1.RuntimeService/NoSuch", "").await?;
    ensure!(unknown == Code::Unimplemented, "{unknown:?}");
    node.finish().await
}

/// All pieces of a list.
async fn whole<P, T>(mut pieces: Streaming<P>, items: impl Fn(P) -> Vec<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await? {
        all.extend(items(piece));
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_lists_in_pieces_have_what_the_lists_in_one_have() -> Result<()> {
    let node = Node::start().await?;
    for name in ["one", "two", "three"] {
        let pod = node.run_pod(name, |_| ()).await?;
        pod.start("main", |_| ()).await?;
    }
    let mut runtime = node.runtime();
    let pieces = runtime.stream_pod_sandboxes(StreamPodSandboxesRequest::default());
    let pods = whole(pieces.await?.into_inner(), |piece| piece.pod_sandboxes).await?;
    ensure!(pods == node.pods().await? && pods.len() == 3);
    let pieces = runtime.stream_containers(StreamContainersRequest::default());
    let containers = whole(pieces.await?.into_inner(), |piece| piece.containers).await?;
    ensure!(containers == node.containers().await? && containers.len() == 3);

    let ids: BTreeSet<_> = containers.iter().map(|container| &container.id).collect();
    let pieces = runtime.stream_container_stats(StreamContainerStatsRequest::default());
    let stats = whole(pieces.await?.into_inner(), |piece| piece.container_stats).await?;
    let attributes = stats.iter().filter_map(|stats| stats.attributes.as_ref());
    ensure!(attributes.map(|it| &it.id).collect::<BTreeSet<_>>() == ids);
    let ids: BTreeSet<_> = pods.iter().map(|pod| &pod.id).collect();
    let pieces = runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest::default());
    let stats = whole(pieces.await?.into_inner(), |piece| piece.pod_sandbox_stats).await?;
    let attributes = stats.iter().filter_map(|stats| stats.attributes.as_ref());
    ensure!(attributes.map(|it| &it.id).collect::<BTreeSet<_>>() == ids);
    let pieces = runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest::default());
    let metrics = whole(pieces.await?.into_inner(), |piece| {
        piece.pod_sandbox_metrics
    })
    .await?;
    ensure!(
        metrics
            .iter()
            .map(|it| &it.pod_sandbox_id)
            .collect::<BTreeSet<_>>()
            == ids
    );

    let pieces = node
        .images()
        .stream_images(StreamImagesRequest::default())
        .await?;
    let images = whole(pieces.into_inner(), |piece| piece.images).await?;
    let listed = node
        .images()
        .list_images(ListImagesRequest::default())
        .await?;
    ensure!(images == listed.into_inner().images && images.len() == 1);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_status_echoes_what_was_asked_for_with_its_containers() -> Result<()> {
    let node = Node::start().await?;
    let pod = node
        .run_pod("echoed", |config| {
            config.hostname = "named".to_owned();
            config.labels.insert("label".to_owned(), "a b".to_owned());
            let note = "{\"any\": \"text\"}\n".to_owned();
            config.annotations.insert("note".to_owned(), note);
        })
        .await?;
    let container = pod.start("main", |_| ()).await?;
    ensure!(container.sh("hostname").await? == "named");
    node.kill()?;
    node.restart().await?;
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: false,
    };
    let answer = node.runtime().pod_sandbox_status(request).await?;
    let answer = answer.into_inner();
    let status = answer.status.context("no status")?;
    ensure!(status.metadata == pod.config.metadata, "{status:?}");
    ensure!(status.labels == pod.config.labels, "{status:?}");
    ensure!(status.annotations == pod.config.annotations, "{status:?}");
    ensure!(answer.timestamp >= status.created_at && status.created_at > 0);
    let ids: Vec<_> = answer.containers_statuses.iter().map(|it| &it.id).collect();
    ensure!(ids == [&container.id], "{ids:?}");
    ensure!(answer.containers_statuses[0] == container.status().await?);
    let listed = node.pods().await?;
    ensure!(listed[0].annotations == status.annotations, "{listed:?}");
    node.finish().await
}
