//! Bad input: the code that the kubelet expects, a message that names the field, and nothing left.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::{Node, image_spec};
use tonic::{Code, Status};

fn expect<T>(what: &str, result: Result<T, Status>, code: Code, named: &str) -> Result<()> {
    let error = result
        .err()
        .with_context(|| format!("{what} was accepted"))?;
    ensure!(error.code() == code, "{what}: {error}");
    ensure!(
        error.message().contains(named),
        "{what} does not name {named:?}: {error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_unknown_ids_are_not_found_where_that_matters() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let id = || "0123456789abcdef".to_owned();
    let mut runtime = node.runtime();
    let status = PodSandboxStatusRequest {
        pod_sandbox_id: id(),
        verbose: false,
    };
    expect(
        "PodSandboxStatus",
        runtime.pod_sandbox_status(status).await,
        Code::NotFound,
        &id(),
    )?;
    let status = ContainerStatusRequest {
        container_id: id(),
        verbose: false,
    };
    expect(
        "ContainerStatus",
        runtime.container_status(status).await,
        Code::NotFound,
        &id(),
    )?;
    let start = StartContainerRequest { container_id: id() };
    expect(
        "StartContainer",
        runtime.start_container(start).await,
        Code::NotFound,
        &id(),
    )?;
    let exec = ExecSyncRequest {
        container_id: id(),
        cmd: vec!["true".to_owned()],
        timeout: 1,
    };
    expect(
        "ExecSync",
        runtime.exec_sync(exec).await,
        Code::NotFound,
        &id(),
    )?;
    let create = CreateContainerRequest {
        pod_sandbox_id: id(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "name".to_owned(),
                attempt: 0,
            }),
            image: Some(image_spec("image")),
            ..ContainerConfig::default()
        }),
        sandbox_config: Some(PodSandboxConfig::default()),
    };
    expect(
        "CreateContainer",
        runtime.create_container(create).await,
        Code::NotFound,
        &id(),
    )?;
    // What is gone already is stopped and removed.
    runtime
        .stop_pod_sandbox(StopPodSandboxRequest {
            pod_sandbox_id: id(),
        })
        .await?;
    runtime
        .remove_pod_sandbox(RemovePodSandboxRequest {
            pod_sandbox_id: id(),
        })
        .await?;
    runtime
        .stop_container(StopContainerRequest {
            container_id: id(),
            timeout: 0,
        })
        .await?;
    runtime
        .remove_container(RemoveContainerRequest { container_id: id() })
        .await?;
    node.remove_image("docker.io/library/no-such:1").await?;
    ensure!(node.image("docker.io/library/no-such:1").await?.is_none());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_missing_fields_are_named() -> Result<()> {
    let node = Node::start().await?;
    let mut runtime = node.runtime();
    expect(
        "no pod config",
        runtime
            .run_pod_sandbox(RunPodSandboxRequest::default())
            .await,
        Code::InvalidArgument,
        "config",
    )?;
    expect(
        "no pod metadata",
        node.run_pod("a", |config| config.metadata = None).await,
        Code::InvalidArgument,
        "metadata",
    )?;
    let unnamed = node
        .run_pod("a", |config| {
            config.metadata.get_or_insert_default().name.clear()
        })
        .await;
    expect("no pod name", unnamed, Code::InvalidArgument, "name")?;
    let pod = node.run_pod("a", |_| ()).await?;
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        ..CreateContainerRequest::default()
    };
    expect(
        "no container config",
        runtime.create_container(request).await,
        Code::InvalidArgument,
        "config",
    )?;
    expect(
        "no container metadata",
        pod.create("c", |config| config.metadata = None).await,
        Code::InvalidArgument,
        "metadata",
    )?;
    expect(
        "no image",
        pod.create("c", |config| config.image = None).await,
        Code::InvalidArgument,
        "image",
    )?;
    let mount = Mount {
        host_path: "/tmp".to_owned(),
        ..Mount::default()
    };
    expect(
        "no mount target",
        pod.create("c", |config| config.mounts.push(mount)).await,
        Code::InvalidArgument,
        "container_path",
    )?;
    expect(
        "empty exec",
        pod.start("c", |_| ()).await?.exec(&[]).await,
        Code::InvalidArgument,
        "cmd",
    )?;
    expect(
        "no image to pull",
        node.pull("").await,
        Code::InvalidArgument,
        "image",
    )?;
    expect(
        "bad reference",
        node.pull("UPPER/case:tag:tag").await,
        Code::InvalidArgument,
        "UPPER",
    )?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_conflicts_and_unknown_names_are_refused() -> Result<()> {
    let node = Node::start().await?;
    let unknown = node
        .run_pod_with_handler("pod", "no-such-handler", |_| ())
        .await;
    ensure!(
        unknown
            .as_ref()
            .is_err_and(|error| error.message().contains("no-such-handler")),
        "{unknown:?}"
    );
    let pod = node.run_pod("pod", |_| ()).await?;
    let absent = pod
        .create("c", |config| {
            config.image = Some(image_spec("docker.io/library/absent:1"))
        })
        .await;
    expect(
        "an image that was not pulled",
        absent,
        Code::NotFound,
        "absent",
    )?;
    let container = pod.create("c", |_| ()).await?;
    container.start().await?;
    ensure!(
        container.start().await.is_err(),
        "a running container was started again"
    );
    // The full id and any prefix that is no other's mean the same.
    let prefix = ContainerStatusRequest {
        container_id: container.id[..12].to_owned(),
        verbose: false,
    };
    let found = node
        .runtime()
        .container_status(prefix)
        .await?
        .into_inner()
        .status
        .context("no status")?;
    ensure!(found.id == container.id);
    pod.stop().await?;
    ensure!(
        pod.create("late", |_| ()).await.is_err(),
        "a container was made in a stopped pod"
    );
    ensure!(node.containers().await?.len() == 1);
    node.finish().await
}
