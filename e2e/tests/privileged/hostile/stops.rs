//! Containers that do not end when they are asked to, and clients that do not wait for it.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerState, StopContainerRequest};
use crisp_e2e::{Cgroup, Container, Node, Pod, Process, eventually, sh, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::time::Duration;
use tonic::{Code, Request};

/// Tells each SIGTERM, and takes no notice of it.
const STUBBORN: &str = "trap 'echo no' TERM; echo ready; while :; do sleep 0.02; done";

async fn start_stubborn<'a>(pod: &Pod<'a>, name: &str) -> Result<Container<'a>> {
    let container = pod
        .start(name, |config| config.command = sh(STUBBORN))
        .await?;
    container.wait_log("ready").await?;
    Ok(container)
}

fn refusals(container: &Container<'_>) -> Result<usize> {
    let log = container.log()?;
    Ok(log.iter().filter(|line| line.text == "no").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stop_goes_on_when_its_callers_deadline_has_passed() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("stubborn", |_| ()).await?;
    let container = start_stubborn(&pod, "main").await?;
    let mut request = Request::new(StopContainerRequest {
        container_id: container.id.clone(),
        timeout: 2,
    });
    request.set_timeout(Duration::from_millis(300));
    let late = node.runtime().stop_container(request).await.err();
    let late = late.context("the stop was quicker than its grace")?;
    ensure!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late}"
    );
    ensure!(container.wait_exit().await?.exit_code == 137);
    ensure!(refusals(&container)? == 1, "{:?}", container.log()?);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stop_is_finished_by_the_next_daemon() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("stubborn", |_| ()).await?;
    let over = start_stubborn(&pod, "over").await?;
    let soon = start_stubborn(&pod, "soon").await?;
    let long = start_stubborn(&pod, "long").await?;
    let stopping = async { tokio::join!(over.stop(15), soon.stop(40), long.stop(3600)) };
    let told = async {
        for container in [&over, &soon, &long] {
            container.wait_log("no").await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        stopped = stopping => anyhow::bail!("stopped at once: {stopped:?}"),
        told = told => told?,
    }
    for container in [&over, &soon, &long] {
        let record = node.container_record(&pod.id, &container.id);
        until("it is on record that the signal was sent", async || {
            let record: Value = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
            record["stop"]["signal"].is_null().then_some(())
        })
        .await?;
    }
    node.kill()?;
    // The patience with one of them ends while nobody is there to end it.
    tokio::time::sleep(Duration::from_secs(15)).await;
    node.restart().await?;

    // Nobody asks again, neither the clients nor the daemon.
    for container in [&over, &soon] {
        ensure!(container.wait_exit().await?.exit_code == 137);
        ensure!(refusals(container)? == 1, "asked twice");
    }
    ensure!(long.status().await?.state() == ContainerState::ContainerRunning);
    ensure!(refusals(&long)? == 1, "asked twice");
    long.stop(0).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_shim_that_hangs_has_the_whole_stop_before_it() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("stubborn", |_| ()).await?;
    let container = start_stubborn(&pod, "main").await?;
    let process = container.process().await?;
    let shim = Pid::from_raw(process.parent()?.0);
    kill(shim, Signal::SIGSTOP)?;
    let stopping = tokio::time::timeout(Duration::from_secs(5), container.stop(1));
    ensure!(stopping.await.is_err(), "the shim does not hang");
    // What kills is on its way to the shim by now, and needs no daemon any more.
    node.kill()?;
    kill(shim, Signal::SIGCONT)?;
    eventually("the container is killed", || !process.runs()).await?;
    node.restart().await?;
    ensure!(container.wait_exit().await?.exit_code == 137);
    node.finish().await
}

/// Stops all processes of a container by its cgroup.
fn freeze(process: Process) -> Result<()> {
    let (dir, file, value) = match process.cgroup("freezer") {
        Ok(Cgroup(dir)) if dir.join("freezer.state").exists() => (dir, "freezer.state", "FROZEN"),
        _ => (process.cgroup("memory")?.0, "cgroup.freeze", "1"),
    };
    std::fs::write(dir.join(file), value).with_context(|| dir.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_frozen_containers_are_stopped_and_removed() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("frozen", |_| ()).await?;
    let polite = pod
        .start("polite", |config| {
            config.command = sh("trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done");
        })
        .await?;
    polite.wait_log("ready").await?;
    freeze(polite.process().await?)?;
    polite.stop(60).await?;
    ensure!(
        polite.status().await?.exit_code == 5,
        "{:?}",
        polite.status().await?
    );

    let stubborn = start_stubborn(&pod, "stubborn").await?;
    freeze(stubborn.process().await?)?;
    stubborn.stop(1).await?;
    ensure!(stubborn.status().await?.exit_code == 137);

    let removed = start_stubborn(&pod, "removed").await?;
    let process = removed.process().await?;
    freeze(process)?;
    removed.remove().await?;
    ensure!(!process.runs(), "the frozen process is left");

    let with_pod = start_stubborn(&pod, "with-pod").await?;
    let process = with_pod.process().await?;
    freeze(process)?;
    pod.stop().await?;
    eventually("the frozen process ends with its pod", || !process.runs()).await?;
    node.finish().await
}
