//! A pod's life, from the pull of its image to the removal of that.

use super::requests::*;
use super::{Story, lost, streams};
use crate::finding::{Finding, stuck};
use crate::kubelet::{Kubelet, Outcome};
use crate::model::{Flux, Known};
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Node, parse_log};
use std::fs;
use std::path::Path;
use tonic::Status;

/// Ends the story early when the pod is lost.
macro_rules! done {
    ($kubelet:expr, $story:expr, $outcome:expr) => {
        match $outcome {
            Outcome::Done(value) => value,
            Outcome::PodLost => return lost::play($kubelet, $story).await,
        }
    };
}

pub(super) async fn play(story: Story, k: &mut Kubelet) -> Result<(), Finding> {
    pull(k, "PullImage").await?;
    run_pod(k, "RunPodSandbox", story).await?;
    done!(k, story, create(k, "CreateContainer", "count").await?);
    done!(k, story, start(k, "StartContainer", "count").await?);
    done!(k, story, exec(k).await?);
    done!(k, story, streams::exec(k).await?);
    done!(k, story, streams::attach(k).await?);
    done!(k, story, streams::forward(k).await?);
    if story == Story::Life {
        done!(k, story, checkpoint(k).await?);
    }
    done!(k, story, update_container(k).await?);
    done!(k, story, update_pod(k).await?);
    done!(k, story, reopen_log(k).await?);
    done!(k, story, create(k, QUIET, "short").await?);
    done!(
        k,
        story,
        run_to_its_end(k, "StartContainer and the container's end", "short", 3).await?
    );
    done!(k, story, create(k, QUIET, "idle").await?);
    k.restart("a restart").await?;
    done!(k, story, stop(k, "StopContainer", "count").await?);
    log_is_whole(k).map_err(|error| Finding::Lost(format!("{error:#}")))?;
    done!(k, story, remove(k, "RemoveContainer", "count").await?);
    done!(k, story, create(k, QUIET, "last").await?);
    done!(k, story, start(k, QUIET, "last").await?);
    stop_pod(k, "StopPodSandbox").await?;
    remove_pod(k, "RemovePodSandbox").await?;
    k.step("RemoveImage", Flux::Image, async |node| {
        node.remove_image(BUSYBOX).await
    })
    .await?;
    k.model.images.clear();
    Ok(())
}

async fn exec(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, "count")?);
    let exec = async |node: &Node| {
        let container = pod.handle(node).container("count", id.clone());
        container.exec(&["echo", "hi"]).await
    };
    let Outcome::Done(done) = k.step("ExecSync", Flux::Nothing, exec).await? else {
        return Ok(Outcome::PodLost);
    };
    match (done.stdout.as_str(), done.code) {
        ("hi\n", 0) => Ok(Outcome::Done(())),
        _ => Err(Finding::Lost(format!("the output of a command: {done:?}"))),
    }
}

/// The container goes on, whoever dies.
async fn checkpoint(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let location = k.node.scratch().map_err(stuck)?.join("checkpoint.tar");
    let request = CheckpointContainerRequest {
        container_id: id_of(k, "count")?,
        location: location.display().to_string(),
        timeout: 0,
    };
    let checkpoint = async |node: &Node| {
        let mut runtime = node.runtime();
        runtime.checkpoint_container(request.clone()).await?;
        match location.exists() {
            true => Ok(()),
            false => Err(Status::internal("there is no archive")),
        }
    };
    k.step("CheckpointContainer", Flux::Nothing, checkpoint)
        .await
}

async fn update_container(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, "count")?);
    let update = async |node: &Node| {
        let container = pod.handle(node).container("count", id.clone());
        container.update(|limits| limits.cpu_shares = 512).await?;
        let limits = container.limits().await.map_err(internal)?;
        match limits.cpu_shares {
            512 => Ok(()),
            shares => Err(Status::internal(format!("the limit is {shares}"))),
        }
    };
    k.step("UpdateContainerResources", Flux::Nothing, update)
        .await
}

async fn update_pod(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: known_pod(k)?.id,
        overhead: None,
        resources: Some(LinuxContainerResources {
            cpu_shares: 2048,
            ..LinuxContainerResources::default()
        }),
    };
    let update = async |node: &Node| {
        let mut runtime = node.runtime();
        let answer = runtime.update_pod_sandbox_resources(request.clone());
        answer.await.map(drop)
    };
    k.step("UpdatePodSandboxResources", Flux::Nothing, update)
        .await
}

async fn reopen_log(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let log = log_path(k)?;
    fs::rename(&log, rotated(&log)).map_err(stuck)?;
    let request = ReopenContainerLogRequest {
        container_id: id_of(k, "count")?,
    };
    let reopen = async |node: &Node| {
        node.runtime().reopen_container_log(request.clone()).await?;
        match log.exists() {
            true => Ok(()),
            false => Err(Status::internal("there is no new log")),
        }
    };
    k.step("ReopenContainerLog", Flux::Nothing, reopen).await
}

async fn stop(
    k: &mut Kubelet,
    step: &'static str,
    name: &'static str,
) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, name)?);
    let stop = async |node: &Node| {
        let container = pod.handle(node).container(name, id.clone());
        container.stop(20).await?;
        Ok(container.status().await.map_err(internal)?.exit_code)
    };
    let Outcome::Done(code) = k.step(step, Flux::Container(name), stop).await? else {
        return Ok(Outcome::PodLost);
    };
    if code != 7 {
        return Err(Finding::Lost(format!("exit code 7 became {code}")));
    }
    set_state(k, name, Known::Exited { code })?;
    Ok(Outcome::Done(()))
}

async fn remove(
    k: &mut Kubelet,
    step: &'static str,
    name: &'static str,
) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, name)?);
    let remove = async |node: &Node| pod.handle(node).container(name, id.clone()).remove().await;
    let outcome = k.step(step, Flux::Container(name), remove).await?;
    pod_of(k)?.containers.remove(name);
    Ok(outcome)
}

async fn stop_pod(k: &mut Kubelet, step: &'static str) -> Result<(), Finding> {
    let pod = known_pod(k)?;
    k.step(step, Flux::Pod, async |node| pod.handle(node).stop().await)
        .await?;
    pod_of(k)?.is_ready = false;
    // Nobody may have seen how it ended.
    let code = match k.shim_has_died() {
        true => exit_code_of(k, "last").await?,
        false => 137,
    };
    set_state(k, "last", Known::Exited { code })
}

async fn exit_code_of(k: &Kubelet, name: &str) -> Result<i32, Finding> {
    let container = known_pod(k)?
        .handle(&k.node)
        .container(name, id_of(k, name)?);
    Ok(container.status().await.map_err(stuck)?.exit_code)
}

pub(super) async fn remove_pod(k: &mut Kubelet, step: &'static str) -> Result<(), Finding> {
    let pod = known_pod(k)?;
    k.step(step, Flux::Pod, async |node| {
        pod.handle(node).remove().await
    })
    .await?;
    k.model.pod = None;
    Ok(())
}

fn log_path(k: &Kubelet) -> Result<std::path::PathBuf, Finding> {
    let container = known_pod(k)?
        .handle(&k.node)
        .container("count", String::new());
    Ok(container.log_path().to_owned())
}

fn rotated(log: &Path) -> std::path::PathBuf {
    log.with_extension("log.1")
}

/// All that the counting container has said, up to its farewell, each number once.
fn log_is_whole(k: &Kubelet) -> Result<()> {
    let log = log_path(k).map_err(|finding| anyhow::anyhow!("{finding}"))?;
    let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
    let lines = parse_log(&(read(&rotated(&log))? + &read(&log)?));
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let (last, numbers) = texts.split_last().context("an empty log")?;
    ensure!(*last == "bye", "the last line is {last:?}");
    for (index, text) in numbers.iter().enumerate() {
        ensure!(*text == index.to_string(), "line {index} is {text:?}");
    }
    Ok(())
}
