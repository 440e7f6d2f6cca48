//! Ids: unknown ones, empty ones, shortened ones, and those of what is in another state.

use super::Refusals;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::{Node, image_spec};
use tonic::{Code, Status};

/// What each RPC that is about one pod answers for an id.
async fn about_pod(node: &Node, id: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let id = || id.to_owned();
    let mut runtime = node.runtime();
    let status = PodSandboxStatusRequest {
        pod_sandbox_id: id(),
        verbose: true,
    };
    let stats = PodSandboxStatsRequest {
        pod_sandbox_id: id(),
    };
    let forward = PortForwardRequest {
        pod_sandbox_id: id(),
        port: vec![80],
    };
    let update = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id(),
        ..Default::default()
    };
    let create = CreateContainerRequest {
        pod_sandbox_id: id(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "name".to_owned(),
                attempt: 0,
            }),
            image: Some(image_spec("image")),
            ..Default::default()
        }),
        sandbox_config: Some(PodSandboxConfig::default()),
    };
    vec![
        (
            "PodSandboxStatus",
            runtime.pod_sandbox_status(status).await.map(drop),
        ),
        (
            "PodSandboxStats",
            runtime.pod_sandbox_stats(stats).await.map(drop),
        ),
        ("PortForward", runtime.port_forward(forward).await.map(drop)),
        (
            "UpdatePodSandboxResources",
            runtime.update_pod_sandbox_resources(update).await.map(drop),
        ),
        (
            "CreateContainer",
            runtime.create_container(create).await.map(drop),
        ),
    ]
}

/// What each RPC that is about one container answers for an id.
async fn about_container(node: &Node, id: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let container_id = || id.to_owned();
    let mut runtime = node.runtime();
    let start = StartContainerRequest {
        container_id: container_id(),
    };
    let status = ContainerStatusRequest {
        container_id: container_id(),
        verbose: true,
    };
    let update = UpdateContainerResourcesRequest {
        container_id: container_id(),
        linux: Some(LinuxContainerResources::default()),
        ..Default::default()
    };
    let reopen = ReopenContainerLogRequest {
        container_id: container_id(),
    };
    let exec_sync = ExecSyncRequest {
        container_id: container_id(),
        cmd: vec!["true".to_owned()],
        timeout: 1,
    };
    let exec = ExecRequest {
        container_id: container_id(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let attach = AttachRequest {
        container_id: container_id(),
        stdout: true,
        ..Default::default()
    };
    let stats = ContainerStatsRequest {
        container_id: container_id(),
    };
    vec![
        (
            "ContainerStatus",
            runtime.container_status(status).await.map(drop),
        ),
        (
            "UpdateContainerResources",
            runtime.update_container_resources(update).await.map(drop),
        ),
        (
            "ReopenContainerLog",
            runtime.reopen_container_log(reopen).await.map(drop),
        ),
        ("ExecSync", runtime.exec_sync(exec_sync).await.map(drop)),
        ("Exec", runtime.exec(exec).await.map(drop)),
        ("Attach", runtime.attach(attach).await.map(drop)),
        (
            "ContainerStats",
            runtime.container_stats(stats).await.map(drop),
        ),
        (
            "StartContainer",
            runtime.start_container(start).await.map(drop),
        ),
    ]
}

/// What each RPC that ends something answers for an id.
async fn ending(node: &Node, id: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let mut runtime = node.runtime();
    let pod_sandbox_id = || id.to_owned();
    let container_id = || id.to_owned();
    let stop_pod = StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id(),
    };
    let remove_pod = RemovePodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id(),
    };
    let stop = StopContainerRequest {
        container_id: container_id(),
        timeout: 0,
    };
    let remove = RemoveContainerRequest {
        container_id: container_id(),
    };
    vec![
        (
            "StopPodSandbox",
            runtime.stop_pod_sandbox(stop_pod).await.map(drop),
        ),
        (
            "RemovePodSandbox",
            runtime.remove_pod_sandbox(remove_pod).await.map(drop),
        ),
        (
            "StopContainer",
            runtime.stop_container(stop).await.map(drop),
        ),
        (
            "RemoveContainer",
            runtime.remove_container(remove).await.map(drop),
        ),
    ]
}

/// Ids that nothing has, of which some would mean something else as paths or texts.
fn unknown_ids() -> [String; 6] {
    [
        "0123456789abcdef".to_owned(),
        "..".to_owned(),
        "../../../../etc".to_owned(),
        "/".to_owned(),
        "a\0b\n".to_owned(),
        "f".repeat(100_000),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_unknown_ids_are_not_found_where_that_matters() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let mut refusals = Refusals::default();
    for id in unknown_ids() {
        let short = id.chars().take(20).collect::<String>();
        let mut all = about_pod(&node, &id).await;
        all.extend(about_container(&node, &id).await);
        for (rpc, answer) in all {
            refusals.check(&format!("{rpc} of {short:?}"), answer, Code::NotFound, "");
        }
        // What is gone already is stopped and removed.
        for (rpc, answer) in ending(&node, &id).await {
            answer.with_context(|| format!("{rpc} of {short:?}"))?;
        }
    }
    refusals.finish()?;
    node.remove_image("docker.io/library/no-such:1").await?;
    ensure!(node.image("docker.io/library/no-such:1").await?.is_none());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_empty_ids_are_refused_by_every_rpc() -> Result<()> {
    let node = Node::start().await?;
    // An empty id would begin every id, and so name this one.
    let pod = node.run_pod("only", |_| ()).await?;
    let container = pod.start("only", |_| ()).await?;
    let mut refusals = Refusals::default();
    for (rpc, answer) in about_pod(&node, "").await {
        refusals.check(rpc, answer, Code::InvalidArgument, "pod_sandbox_id");
    }
    for (rpc, answer) in about_container(&node, "").await {
        refusals.check(rpc, answer, Code::InvalidArgument, "container_id");
    }
    for (rpc, answer) in ending(&node, "").await {
        refusals.check(rpc, answer, Code::InvalidArgument, "_id");
    }
    refusals.finish()?;
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_requests_that_come_at_the_wrong_time_say_the_state() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod.create("c", |_| ()).await?;
    let mut refusals = Refusals::default();
    let only_when_running = ["ReopenContainerLog", "ExecSync", "Exec", "Attach"];
    // The last of them starts it.
    for (rpc, answer) in about_container(&node, &container.id).await {
        match only_when_running.contains(&rpc) {
            true => refusals.check(rpc, answer, Code::FailedPrecondition, &container.id),
            false => answer.with_context(|| rpc.to_owned())?,
        }
    }
    let again = container.start().await;
    refusals.check("a second start", again, Code::FailedPrecondition, "running");
    container.stop(0).await?;
    let only_before_the_end = ["UpdateContainerResources", "StartContainer"];
    for (rpc, answer) in about_container(&node, &container.id).await {
        match only_when_running.contains(&rpc) || only_before_the_end.contains(&rpc) {
            true => refusals.check(rpc, answer, Code::FailedPrecondition, &container.id),
            false => answer.with_context(|| rpc.to_owned())?,
        }
    }
    pod.stop().await?;
    for (rpc, answer) in about_pod(&node, &pod.id).await {
        if ["PortForward", "UpdatePodSandboxResources"].contains(&rpc) {
            refusals.check(rpc, answer, Code::FailedPrecondition, "not ready");
        }
    }
    let late = pod.create("late", |_| ()).await;
    refusals.check(
        "a late container",
        late,
        Code::FailedPrecondition,
        "not ready",
    );
    refusals.finish()?;
    ensure!(node.containers().await?.len() == 1);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_filters_that_match_nothing_list_nothing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    pod.start("c", |_| ()).await?;
    for id in unknown_ids() {
        let filter = ContainerFilter {
            id: id.clone(),
            ..ContainerFilter::default()
        };
        let request = ListContainersRequest {
            filter: Some(filter),
        };
        let listed = node.runtime().list_containers(request).await?.into_inner();
        ensure!(listed.containers.is_empty(), "{listed:?}");
        let filter = PodSandboxFilter {
            id,
            state: Some(PodSandboxStateValue { state: 99 }),
            ..PodSandboxFilter::default()
        };
        let request = ListPodSandboxRequest {
            filter: Some(filter),
        };
        let listed = node.runtime().list_pod_sandbox(request).await?.into_inner();
        ensure!(listed.items.is_empty(), "{listed:?}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_id_may_be_shortened_to_what_no_other_begins_with() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod.start("c", |_| ()).await?;
    for (rpc, answer) in about_container(&node, &container.id[..12]).await {
        if rpc != "StartContainer" {
            answer.with_context(|| rpc.to_owned())?;
        }
    }
    for (rpc, answer) in about_pod(&node, &pod.id[..12]).await {
        if rpc != "CreateContainer" {
            answer.with_context(|| rpc.to_owned())?;
        }
    }
    node.finish().await
}
