//! Drives a runtime as a client of Kubernetes 1.32 does, and prints what it was answered as one JSON
//! object: `older-client SOCKET IMAGE LOG_DIRECTORY CGROUP_PARENT`.

use anyhow::{Context, Result};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::*;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::Response;
use tonic::transport::{Channel, Endpoint};

/// What each RPC was answered.
#[derive(Default)]
struct Answers(Map<String, Value>);

impl Answers {
    fn note<T: Serialize>(&mut self, rpc: &str, answer: Response<T>) -> Result<T> {
        let answer = answer.into_inner();
        self.0
            .insert(rpc.to_owned(), serde_json::to_value(&answer)?);
        Ok(answer)
    }
}

/// What the runtime is given to work with.
struct Site {
    image: String,
    log_directory: String,
    cgroup_parent: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("no {what}"));
    let socket = next("SOCKET")?;
    let site = Site {
        image: next("IMAGE")?,
        log_directory: next("LOG_DIRECTORY")?,
        cgroup_parent: next("CGROUP_PARENT")?,
    };
    let channel = Endpoint::from_shared(format!("unix://{socket}"))?
        .connect()
        .await?;
    let mut answers = Answers::default();
    let runtime = RuntimeServiceClient::new(channel.clone());
    let image = images(ImageServiceClient::new(channel), &site, &mut answers).await?;
    pods(runtime, &site, image, &mut answers).await?;
    println!("{}", Value::Object(answers.0));
    Ok(())
}

fn labels(name: &str) -> std::collections::HashMap<String, String> {
    [("name".to_owned(), name.to_owned())].into()
}

async fn images(
    mut images: ImageServiceClient<Channel>,
    site: &Site,
    answers: &mut Answers,
) -> Result<ImageSpec> {
    let image = ImageSpec {
        image: site.image.clone(),
        ..ImageSpec::default()
    };
    let request = PullImageRequest {
        image: Some(image.clone()),
        ..PullImageRequest::default()
    };
    answers.note("PullImage", images.pull_image(request).await?)?;
    let request = ImageStatusRequest {
        image: Some(image.clone()),
        verbose: true,
    };
    answers.note("ImageStatus", images.image_status(request).await?)?;
    let request = ListImagesRequest::default();
    answers.note("ListImages", images.list_images(request).await?)?;
    let request = ImageFsInfoRequest {};
    answers.note("ImageFsInfo", images.image_fs_info(request).await?)?;
    Ok(image)
}

async fn pods(
    mut runtime: RuntimeServiceClient<Channel>,
    site: &Site,
    image: ImageSpec,
    answers: &mut Answers,
) -> Result<()> {
    let request = VersionRequest::default();
    answers.note("Version", runtime.version(request).await?)?;
    let request = StatusRequest { verbose: true };
    answers.note("Status", runtime.status(request).await?)?;
    let request = RuntimeConfigRequest {};
    answers.note("RuntimeConfig", runtime.runtime_config(request).await?)?;
    let request = ListMetricDescriptorsRequest {};
    let descriptors = runtime.list_metric_descriptors(request).await?;
    answers.note("ListMetricDescriptors", descriptors)?;
    let events = runtime.get_container_events(GetEventsRequest {}).await?;
    let config = pod_config(site);
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let pod = answers.note("RunPodSandbox", runtime.run_pod_sandbox(request).await?)?;
    let pod_sandbox_id = pod.pod_sandbox_id;
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        verbose: true,
    };
    answers.note(
        "PodSandboxStatus",
        runtime.pod_sandbox_status(request).await?,
    )?;
    let request = ListPodSandboxRequest::default();
    answers.note("ListPodSandbox", runtime.list_pod_sandbox(request).await?)?;
    container(&mut runtime, &pod_sandbox_id, config, image, answers).await?;
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    answers.note("PodSandboxStats", runtime.pod_sandbox_stats(request).await?)?;
    let request = ListPodSandboxMetricsRequest {};
    let metrics = runtime.list_pod_sandbox_metrics(request).await?;
    answers.note("ListPodSandboxMetrics", metrics)?;
    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    answers.note("StopPodSandbox", runtime.stop_pod_sandbox(request).await?)?;
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    answers.note(
        "RemovePodSandbox",
        runtime.remove_pod_sandbox(request).await?,
    )?;
    answers.0.insert(
        "GetContainerEvents".to_owned(),
        until_deleted(events.into_inner(), &pod_sandbox_id).await?,
    );
    Ok(())
}

fn pod_config(site: &Site) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "older".to_owned(),
            uid: "uid-of-older".to_owned(),
            namespace: "default".to_owned(),
            attempt: 1,
        }),
        hostname: "older".to_owned(),
        log_directory: site.log_directory.clone(),
        labels: labels("pod"),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: site.cgroup_parent.clone(),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

async fn container(
    runtime: &mut RuntimeServiceClient<Channel>,
    pod: &str,
    pod_config: PodSandboxConfig,
    image: ImageSpec,
    answers: &mut Answers,
) -> Result<()> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 2,
            }),
            image: Some(image),
            command: ["sleep", "1000000"].map(str::to_owned).to_vec(),
            labels: labels("container"),
            log_path: "main.log".to_owned(),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    memory_limit_in_bytes: 64 << 20,
                    ..LinuxContainerResources::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        }),
        sandbox_config: Some(pod_config),
    };
    let created = answers.note("CreateContainer", runtime.create_container(request).await?)?;
    let container_id = created.container_id;
    let request = StartContainerRequest {
        container_id: container_id.clone(),
    };
    answers.note("StartContainer", runtime.start_container(request).await?)?;
    let request = UpdateContainerResourcesRequest {
        container_id: container_id.clone(),
        linux: Some(LinuxContainerResources {
            cpu_shares: 512,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    let updated = runtime.update_container_resources(request).await?;
    answers.note("UpdateContainerResources", updated)?;
    let request = ContainerStatusRequest {
        container_id: container_id.clone(),
        verbose: true,
    };
    answers.note("ContainerStatus", runtime.container_status(request).await?)?;
    let request = ListContainersRequest::default();
    answers.note("ListContainers", runtime.list_containers(request).await?)?;
    let request = ExecSyncRequest {
        container_id: container_id.clone(),
        cmd: ["sh", "-c", "echo out; exit 7"].map(str::to_owned).to_vec(),
        timeout: 30,
    };
    answers.note("ExecSync", runtime.exec_sync(request).await?)?;
    let request = ContainerStatsRequest {
        container_id: container_id.clone(),
    };
    answers.note("ContainerStats", runtime.container_stats(request).await?)?;
    let request = StopContainerRequest {
        container_id: container_id.clone(),
        timeout: 0,
    };
    answers.note("StopContainer", runtime.stop_container(request).await?)?;
    let request = RemoveContainerRequest { container_id };
    answers.note("RemoveContainer", runtime.remove_container(request).await?)?;
    Ok(())
}

/// The ids and kinds of events up to the one that says that the pod is deleted.
async fn until_deleted(
    mut events: tonic::Streaming<ContainerEventResponse>,
    pod: &str,
) -> Result<Value> {
    let mut heard = Vec::new();
    while let Some(event) = events.message().await? {
        let kind = event.container_event_type();
        heard.push(Value::from(vec![
            event.container_id.clone(),
            kind.as_str_name().to_owned(),
        ]));
        if event.container_id == pod && kind == ContainerEventType::ContainerDeletedEvent {
            break;
        }
    }
    Ok(Value::Array(heard))
}
