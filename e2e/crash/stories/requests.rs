//! The requests of stories, as a kubelet repeats them.

use super::Story;
use crate::finding::{Finding, stuck};
use crate::kubelet::{Kubelet, Outcome};
use crate::model::{ContainerModel, Flux, Known, PodModel};
use crisp_cri_api::v1::ContainerState;
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Container, Node, sh, until, with_host_port};
use std::collections::BTreeMap;
use tonic::{Code, Status};

/// Steps at which nobody is to die.
pub(crate) const QUIET: &str = "";

/// Counts until it is told to end, and ends with 7.
const COUNT: &str =
    "trap 'echo bye; exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done";

pub(crate) async fn pull(k: &mut Kubelet, step: &'static str) -> Result<(), Finding> {
    k.step(step, Flux::Image, async |node| node.pull(BUSYBOX).await)
        .await?;
    k.model.images.insert(BUSYBOX.to_owned());
    Ok(())
}

/// Starts the one pod of a story.
pub(crate) async fn run_pod(
    k: &mut Kubelet,
    step: &'static str,
    story: Story,
) -> Result<(), Finding> {
    let run = async |node: &Node| try_run_pod(node, story, 0).await;
    let Outcome::Done(pod) = k.step(step, Flux::Pod, run).await? else {
        unreachable!("a step about a pod ends with the pod");
    };
    k.model.pod = Some(pod);
    Ok(())
}

pub(crate) async fn try_run_pod(
    node: &Node,
    story: Story,
    attempt: u32,
) -> Result<PodModel, Status> {
    let pod = node
        .run_pod_with_handler("life", story.handler(), |config| {
            config.metadata.get_or_insert_default().attempt = attempt;
            with_host_port(node)(config);
            story.edit_pod(config);
        })
        .await?;
    // It may have died again already.
    let addresses = pod.addresses().await.unwrap_or_default();
    Ok(PodModel {
        id: pod.id.clone(),
        config: pod.config.clone(),
        addresses,
        is_ready: true,
        containers: BTreeMap::new(),
    })
}

/// What a container of a story does.
fn command(name: &str) -> Vec<String> {
    match name {
        "count" => sh(COUNT),
        "short" => sh("echo short; exit 3"),
        "refused" => sh("no-such-program; exit 127"),
        _ => sh("sleep 1000000"),
    }
}

pub(crate) async fn create(
    k: &mut Kubelet,
    step: &'static str,
    name: &'static str,
) -> Result<Outcome<()>, Finding> {
    let pod = known_pod(k)?;
    let create = async |node: &Node| {
        let pod = pod.handle(node);
        let created = pod.create(name, |config| config.command = command(name));
        created.await.map(|container| container.id)
    };
    let Outcome::Done(id) = k.step(step, Flux::Container(name), create).await? else {
        return Ok(Outcome::PodLost);
    };
    let state = Known::Created;
    let container = ContainerModel { id, state };
    pod_of(k)?.containers.insert(name, container);
    Ok(Outcome::Done(()))
}

pub(crate) async fn start(
    k: &mut Kubelet,
    step: &'static str,
    name: &'static str,
) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, name)?);
    let start = async |node: &Node| {
        let container = pod.handle(node).container(name, id.clone());
        let started = container.start().await;
        let status = container.status().await.map_err(internal)?;
        match started {
            Ok(()) => Ok(status.started_at),
            // The start before it was done.
            Err(refused)
                if refused.code() == Code::FailedPrecondition
                    && status.state() == ContainerState::ContainerRunning =>
            {
                Ok(status.started_at)
            }
            Err(error) => Err(error),
        }
    };
    let Outcome::Done(started_at) = k.step(step, Flux::Container(name), start).await? else {
        return Ok(Outcome::PodLost);
    };
    set_state(k, name, Known::Running { started_at })?;
    Ok(Outcome::Done(()))
}

/// Starts a container that ends by itself, and waits for that.
pub(crate) async fn run_to_its_end(
    k: &mut Kubelet,
    step: &'static str,
    name: &'static str,
    code: i32,
) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, name)?);
    let run = async |node: &Node| {
        let container = pod.handle(node).container(name, id.clone());
        let started = container.start().await;
        let status = container.status().await.map_err(internal)?;
        match started {
            Err(error) if status.state() == ContainerState::ContainerCreated => Err(error),
            _ => exit_code(&container).await,
        }
    };
    let Outcome::Done(exit_code) = k.step(step, Flux::Container(name), run).await? else {
        return Ok(Outcome::PodLost);
    };
    if exit_code != code {
        return Err(Finding::Lost(format!(
            "exit code {code} became {exit_code}"
        )));
    }
    set_state(k, name, Known::Exited { code })?;
    Ok(Outcome::Done(()))
}

/// Waits for a container's end for as long as somebody tells of it.
async fn exit_code(container: &Container<'_>) -> Result<i32, Status> {
    let ended = until("the container ends", async || {
        match container.status().await {
            Ok(status) if status.state() == ContainerState::ContainerExited => {
                Some(Ok(status.exit_code))
            }
            Ok(_) => None,
            Err(error) => Some(Err(internal(error))),
        }
    });
    ended.await.map_err(internal)?
}

pub(crate) fn known_pod(k: &Kubelet) -> Result<PodModel, Finding> {
    k.model
        .pod
        .clone()
        .ok_or_else(|| stuck("the story has no pod"))
}

pub(crate) fn pod_of(k: &mut Kubelet) -> Result<&mut PodModel, Finding> {
    k.model
        .pod
        .as_mut()
        .ok_or_else(|| stuck("the story has no pod"))
}

pub(crate) fn id_of(k: &Kubelet, name: &str) -> Result<String, Finding> {
    let pod = known_pod(k)?;
    let container = pod.containers.get(name);
    let container = container.ok_or_else(|| stuck(format!("the story has no container {name}")))?;
    Ok(container.id.clone())
}

pub(crate) fn set_state(k: &mut Kubelet, name: &str, state: Known) -> Result<(), Finding> {
    if let Some(container) = pod_of(k)?.containers.get_mut(name) {
        container.state = state;
    }
    Ok(())
}

/// What the harness says where a status is expected.
pub(crate) fn internal(error: anyhow::Error) -> Status {
    match error.downcast::<Status>() {
        Ok(status) => status,
        Err(error) => Status::internal(format!("{error:#}")),
    }
}
