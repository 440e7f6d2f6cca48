//! Requests about pods, containers and images that are there, which cannot be granted.

use super::Refusals;
use anyhow::{Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::{Node, Pod, image_spec};
use tonic::{Code, Status};

/// What is refused of a container that runs, whatever it is.
async fn bad_requests(node: &Node, pod: &Pod<'_>, container_id: &str, refusals: &mut Refusals) {
    let container_id = || container_id.to_owned();
    let mut runtime = node.runtime();
    let exec = ExecRequest {
        container_id: container_id(),
        cmd: vec!["true".to_owned()],
        ..ExecRequest::default()
    };
    let attach = AttachRequest {
        container_id: container_id(),
        ..AttachRequest::default()
    };
    let forward = |port| PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![port],
    };
    let with_tty = ExecRequest {
        tty: true,
        stdout: true,
        stderr: true,
        ..exec.clone()
    };
    let without_command = ExecRequest {
        stdout: true,
        cmd: Vec::new(),
        ..exec.clone()
    };
    let mut invalid = |what: &str, answer: Result<(), Status>, named: &str| {
        refusals.check(what, answer, Code::InvalidArgument, named);
    };
    let exec_sync = |cmd: &[&str], timeout| ExecSyncRequest {
        container_id: container_id(),
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        timeout,
    };
    for (what, request, named) in [
        ("ExecSync of nothing", exec_sync(&[], 1), "cmd"),
        ("ExecSync of an empty name", exec_sync(&[""], 1), "cmd"),
        ("ExecSync of a NUL", exec_sync(&["a\0"], 1), "cmd"),
        ("ExecSync before now", exec_sync(&["true"], -1), "timeout"),
    ] {
        invalid(what, runtime.exec_sync(request).await.map(drop), named);
    }
    for (what, request, named) in [
        ("Exec without streams", exec, "stdin, stdout or stderr"),
        ("Exec with two outputs of a terminal", with_tty, "tty"),
        ("Exec of nothing", without_command, "cmd"),
    ] {
        invalid(what, runtime.exec(request).await.map(drop), named);
    }
    let answer = runtime.attach(attach).await.map(drop);
    invalid("Attach without streams", answer, "stdin, stdout or stderr");
    for port in [-1, 0, 65_536] {
        let answer = runtime.port_forward(forward(port)).await.map(drop);
        invalid(&format!("PortForward to {port}"), answer, "port");
    }
    let stop = StopContainerRequest {
        container_id: container_id(),
        timeout: -1,
    };
    let answer = runtime.stop_container(stop).await.map(drop);
    invalid("StopContainer before now", answer, "timeout");
    let update = UpdateContainerResourcesRequest {
        container_id: container_id(),
        ..UpdateContainerResourcesRequest::default()
    };
    let answer = runtime.update_container_resources(update).await.map(drop);
    invalid("UpdateContainerResources to nothing", answer, "linux");
    let update = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: Some(LinuxContainerResources {
            cpu_period: -1,
            ..LinuxContainerResources::default()
        }),
        resources: None,
    };
    let answer = runtime.update_pod_sandbox_resources(update).await.map(drop);
    invalid("UpdatePodSandboxResources", answer, "overhead.cpu_period");
    let config = |pod_cidr: &str| UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig {
                pod_cidr: pod_cidr.to_owned(),
            }),
        }),
    };
    for cidr in ["10.0.0.0/33", "nonsense", "10.0.0.0", "10.0.0.0/8,x"] {
        let answer = runtime.update_runtime_config(config(cidr)).await.map(drop);
        invalid(
            &format!("UpdateRuntimeConfig to {cidr}"),
            answer,
            "pod_cidr",
        );
    }
    let checkpoint = |location: &str, timeout| CheckpointContainerRequest {
        container_id: container_id(),
        location: location.to_owned(),
        timeout,
    };
    let answer = runtime.checkpoint_container(checkpoint("/tmp/x", -1)).await;
    invalid("CheckpointContainer", answer.map(drop), "timeout");
    for location in ["", "relative/../path", "/", "/tmp"] {
        let answer = runtime.checkpoint_container(checkpoint(location, 0)).await;
        let what = format!("CheckpointContainer to {location:?}");
        invalid(&what, answer.map(drop), "location");
    }
}

async fn bad_images(node: &Node, refusals: &mut Refusals) {
    let mut images = node.images();
    let mut invalid = |what: &str, answer: Result<(), Status>, named: &str| {
        refusals.check(what, answer, Code::InvalidArgument, named);
    };
    let answer = images.pull_image(PullImageRequest::default()).await;
    invalid("PullImage of nothing", answer.map(drop), "image");
    let answer = images.image_status(ImageStatusRequest::default()).await;
    invalid("ImageStatus of nothing", answer.map(drop), "image");
    let answer = images.remove_image(RemoveImageRequest::default()).await;
    invalid("RemoveImage of nothing", answer.map(drop), "image");
    for name in [
        "",
        "UPPER/case:tag:tag",
        "../../etc/passwd",
        "a\0b",
        "name@sha256:short",
        "https://example.test/name",
        &"n".repeat(100_000),
    ] {
        let short: String = name.chars().take(20).collect();
        let answer = node.pull(name).await.map(drop);
        invalid(&format!("PullImage of {short:?}"), answer, "image");
    }
    let request = PullImageRequest {
        image: Some(ImageSpec {
            runtime_handler: "no-such-handler".to_owned(),
            ..image_spec("docker.io/library/busybox:1.35")
        }),
        ..PullImageRequest::default()
    };
    let answer = images.pull_image(request).await.map(drop);
    invalid("PullImage for a handler", answer, "no-such-handler");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_bad_requests_of_every_other_rpc_are_refused_by_field() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod.start("c", |_| ()).await?;
    let mut refusals = Refusals::default();
    bad_requests(&node, &pod, &container.id, &mut refusals).await;
    bad_images(&node, &mut refusals).await;
    refusals.finish()?;
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}
