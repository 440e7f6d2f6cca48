//! Shims that are killed: their pods are taken down and told of, whoever is there to do it.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerState, PodSandboxState};
use crisp_e2e::{Container, Node, Process, edit_record, eventually, sh, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use tokio::process::Command;

async fn kill_shim(container: &Container<'_>) -> Result<Process> {
    let shim = container.process().await?.parent()?;
    kill(Pid::from_raw(shim.0), Signal::SIGKILL)?;
    Ok(shim)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_shim_is_killed_is_taken_down_though_nobody_asks() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("orphaned", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let (process, address) = (container.process().await?, pod.netns());
    kill_shim(&container).await?;
    ensure!(container.wait_exit().await?.exit_code == 255);
    eventually("the container's process ends", || !process.runs()).await?;
    eventually("the network namespace is gone", || !address.exists()).await?;
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    pod.remove().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_shim_is_killed_while_the_daemon_is_dead_is_taken_down() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node.run_pod("orphaned", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let other = node
        .run_pod("other", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let process = container.process().await?;
    let shim = process.parent()?;
    node.kill()?;
    kill(Pid::from_raw(shim.0), Signal::SIGKILL)?;
    eventually("the shim is gone", || !shim.runs()).await?;
    node.restart().await?;
    let status = container.status().await?;
    ensure!(
        (status.state(), status.exit_code, status.reason.as_str())
            == (ContainerState::ContainerExited, 255, "Unknown"),
        "{status:?}"
    );
    ensure!(!process.runs(), "the container's process is left");
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    ensure!(other.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_process_that_has_the_numbers_of_dead_ones_is_left_alone() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("orphaned", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    node.kill()?;
    node.shim(&pod.id)?.kill();
    // As if it had got the number of each of them.
    let mut stranger = Command::new("sleep")
        .arg("1000000")
        .kill_on_drop(true)
        .spawn()?;
    let pid = stranger.id().context("it runs")?;
    edit_record(&node.pod_record(&pod.id), |record| {
        record["shim_pid"] = pid.into();
        record["pause_pid"] = pid.into();
    })?;
    edit_record(&node.container_record(&pod.id, &container.id), |record| {
        record["state"]["Running"]["pid"] = pid.into();
    })?;
    let shim_pid = node.run_dir().join("pods").join(&pod.id).join("shim.pid");
    fs::write(shim_pid, format!("{pid} 1\n"))?;
    node.restart().await?;
    let status = container.status().await?;
    pod.remove().await?;
    let is_alive = stranger.try_wait()?.is_none();
    stranger.kill().await?;
    ensure!(
        status.state() == ContainerState::ContainerExited,
        "{status:?}"
    );
    ensure!(is_alive, "it was killed");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_requests_under_way_are_answered_when_the_shim_is_killed() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("orphaned", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let (executed, stopped, killed) = tokio::join!(
        container.exec_for(0, &["sleep", "1000000"]),
        container.stop(3600),
        async {
            let shim = container.process().await?.parent()?;
            until("the command runs", async || {
                (shim.children().len() > 2).then_some(())
            })
            .await?;
            kill_shim(&container).await
        }
    );
    killed?;
    let error = executed.err().context("a command of nobody ended")?;
    ensure!(error.message().contains("shim"), "{error}");
    // The container has ended, as was asked for.
    stopped?;
    ensure!(container.status().await?.state() == ContainerState::ContainerExited);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_pause_is_killed_while_the_daemon_is_dead_is_not_ready() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node.run_pod("headless", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let process = container.process().await?;
    let mut others = process.parent()?.children();
    others.retain(|child| *child != process);
    ensure!(others.len() == 1, "{others:?}");
    node.kill()?;
    kill(Pid::from_raw(others[0].0), Signal::SIGKILL)?;
    eventually("pause is gone", || !others[0].runs()).await?;
    node.restart().await?;
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    pod.stop().await?;
    ensure!(container.status().await?.state() == ContainerState::ContainerExited);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_shim_that_does_not_answer_keeps_no_daemon_from_starting() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("silent", |_| ()).await?;
    let script = "echo ready; until [ -e /dev/shm/go ]; do sleep 0.02; done; exit 4";
    let container = pod
        .start("main", |config| config.command = sh(script))
        .await?;
    container.wait_log("ready").await?;
    let process = container.process().await?;
    let shim = Pid::from_raw(process.parent()?.0);
    kill(shim, Signal::SIGSTOP)?;
    node.kill()?;
    node.restart().await?;
    let other = node
        .run_pod("other", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    ensure!(other.sh("echo alive").await? == "alive");
    ensure!(container.status().await?.state() == ContainerState::ContainerRunning);
    // As soon as it answers, the daemon hears what has happened.
    fs::write(format!("/proc/{}/root/dev/shm/go", process.0), "")?;
    kill(shim, Signal::SIGCONT)?;
    ensure!(container.wait_exit().await?.exit_code == 4);
    node.finish().await
}
