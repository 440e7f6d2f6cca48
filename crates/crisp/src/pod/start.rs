//! What a kubelet does to start pods, in its order: images, the pod, its init containers one after
//! another, its containers. All of it or nothing is left.

use super::{list, volumes};
use crate::client::{Client, told};
use crate::image;
use crate::manifest::{
    Container, Host, Pod, PullPolicy, container_config, log_directory, must_not_be_root, pod_config,
};
use crate::names::Snapshot;
use crate::output;
use crate::text::printable;
use anyhow::{Context, Result, anyhow, bail};
use crisp_cri_api::v1;
use crisp_cri_api::v1::ContainerState;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often a container that is waited for is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A pod that runs.
#[derive(Debug)]
pub(super) struct Started {
    /// `namespace/name`.
    pub(super) name: String,
    pub(super) id: String,
    /// Empty on the host's network.
    pub(super) address: String,
    /// Names and ids, without init containers.
    pub(super) containers: Vec<(String, String)>,
}

/// Starts pods one after another. When one fails, or the person interrupts it, all of them are removed.
pub(super) async fn all(client: &Client, pods: &[Pod], host: &Host) -> Result<Vec<Started>> {
    none_is_there(client, pods).await?;
    let started = tokio::select! {
        started = each(client, pods, host) => started,
        () = interrupted() => Err(anyhow!("interrupted")),
    };
    if started.is_err()
        && let Err(error) = undo(client, pods, host).await
    {
        output::error(&error.context("what was started could not be removed"));
    }
    started
}

async fn none_is_there(client: &Client, pods: &[Pod]) -> Result<()> {
    let snapshot = Snapshot::take(client).await?;
    for Pod { metadata, .. } in pods {
        let there = snapshot
            .pods
            .iter()
            .filter_map(|pod| pod.metadata.as_ref())
            .any(|known| {
                known.uid == metadata.uid
                    || (known.namespace == metadata.namespace && known.name == metadata.name)
            });
        if there {
            let name = full_name(&metadata.namespace, &metadata.name);
            bail!("there is a pod {name} already: remove it with `crisp pod rm {name}`");
        }
    }
    Ok(())
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

async fn each(client: &Client, pods: &[Pod], host: &Host) -> Result<Vec<Started>> {
    let mut started = Vec::new();
    for pod in pods {
        let name = full_name(&pod.metadata.namespace, &pod.metadata.name);
        started.push(
            one(client, pod, host)
                .await
                .with_context(|| format!("pod {name}"))?,
        );
    }
    Ok(started)
}

async fn one(client: &Client, pod: &Pod, host: &Host) -> Result<Started> {
    let mut images = Vec::new();
    for container in pod.spec.all_containers() {
        images.push(image(client, pod, container).await?);
    }
    volumes::prepare(pod, host)?;
    let config = pod_config(pod, host);
    fs::create_dir_all(&config.log_directory)
        .with_context(|| format!("making {}", config.log_directory))?;
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: pod.spec.runtime_class_name.clone(),
    };
    let answer = client
        .runtime()
        .run_pod_sandbox(request)
        .await
        .map_err(told)?;
    let making = Making {
        client,
        pod,
        host,
        config,
        id: answer.into_inner().pod_sandbox_id,
    };
    let containers = making.containers(&images).await?;
    Ok(Started {
        name: full_name(&pod.metadata.namespace, &pod.metadata.name),
        address: list::address(client, &making.id).await?,
        id: making.id,
        containers,
    })
}

/// The image of a container, fetched when its pull policy says so.
async fn image(client: &Client, pod: &Pod, container: &Container) -> Result<v1::Image> {
    let name = &container.image;
    let image = match (container.pull_policy(), client.image(name).await?) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, Some(image)) => image,
        (PullPolicy::Never, None) => bail!(
            "image {name} is not on the node, and imagePullPolicy is Never: fetch it with `crisp image pull` or `crisp image import`"
        ),
        (PullPolicy::Always | PullPolicy::IfNotPresent, _) => {
            image::fetch(client, name, None)
                .await
                .with_context(|| format!("image {name}"))?;
            client
                .image(name)
                .await?
                .with_context(|| format!("image {name} has just gone"))?
        }
    };
    must_not_be_root(pod, container, &image)?;
    Ok(image)
}

/// A pod whose containers are being made.
struct Making<'a> {
    client: &'a Client,
    pod: &'a Pod,
    host: &'a Host,
    config: v1::PodSandboxConfig,
    id: String,
}

impl Making<'_> {
    /// Runs the init containers, starts the others. The images are in the order of all containers.
    async fn containers(&self, images: &[v1::Image]) -> Result<Vec<(String, String)>> {
        let spec = &self.pod.spec;
        let (init_images, images) = images.split_at(spec.init_containers.len());
        for (container, image) in spec.init_containers.iter().zip(init_images) {
            let id = self.start(container, image).await?;
            let ended = ended(self.client, &id).await?;
            if ended.exit_code != 0 {
                bail!("init container {} {}", container.name, how_it_ended(&ended));
            }
        }
        let mut started = Vec::new();
        for (container, image) in spec.containers.iter().zip(images) {
            let id = self.start(container, image).await?;
            started.push((container.name.clone(), id));
        }
        Ok(started)
    }

    async fn start(&self, container: &Container, image: &v1::Image) -> Result<String> {
        let about = || format!("container {}", container.name);
        let config = container_config(self.pod, container, &image.id, self.host);
        let log_dir = log_directory(self.pod, self.host).join(&container.name);
        fs::create_dir_all(&log_dir).with_context(|| format!("making {}", log_dir.display()))?;
        let mut runtime = self.client.runtime();
        let create = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let created = runtime
            .create_container(create)
            .await
            .map_err(told)
            .with_context(about)?;
        let container_id = created.into_inner().container_id;
        let start = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        runtime
            .start_container(start)
            .await
            .map_err(told)
            .with_context(about)?;
        Ok(container_id)
    }
}

/// Waits until a container has ended.
pub(super) async fn ended(client: &Client, id: &str) -> Result<v1::ContainerStatus> {
    loop {
        let status = client.container_status(id).await?;
        match status.state() {
            ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
                return Ok(status);
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// `exited with code 3 (Error)`.
pub(super) fn how_it_ended(status: &v1::ContainerStatus) -> String {
    let text = format!("exited with code {} ({})", status.exit_code, status.reason);
    match status.message.as_str() {
        "" => text,
        message => format!("{text}: {}", printable(message)),
    }
}

/// Removes pods, by their uids, with all that was made for them. Finds also what nobody told us of,
/// because it was interrupted.
pub(super) async fn undo(client: &Client, pods: &[Pod], host: &Host) -> Result<()> {
    let snapshot = Snapshot::take(client).await?;
    let directories = client.directories().await?;
    for pod in pods {
        let uid = &pod.metadata.uid;
        let made = snapshot
            .pods
            .iter()
            .filter(|p| p.metadata.as_ref().is_some_and(|m| m.uid == *uid));
        for sandbox in made {
            client.take_down_pod(&sandbox.id).await?;
        }
        volumes::remove(&directories, uid)?;
        let logs = log_directory(pod, host);
        match fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", logs.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ready when the person, or the system, wants the command to end.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
