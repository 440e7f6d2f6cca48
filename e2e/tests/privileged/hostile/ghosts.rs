//! Processes that would outlive the container they belong to.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{
    ContainerConfig, ContainerState, NamespaceMode, NamespaceOption, PodSandboxConfig,
};
use crisp_e2e::{Node, Process, allow_privileged, eventually, pid_mode, security, sh};

/// Leaves its session and all that could tell where it comes from, and holds the container's log.
fn ghost(number: u32) -> String {
    format!(
        "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM HUP; sleep {number}' >/proc/1/fd/1 2>&1 &"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_execd_process_that_holds_the_log_ends_with_the_container() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("haunted", |_| ()).await?;
    let script = "echo ready; until [ -e /go ]; do sleep 0.02; done; echo last words; exit 3";
    let container = pod
        .start("main", |config| config.command = sh(script))
        .await?;
    container.wait_log("ready").await?;
    container.sh(&ghost(7_650_301)).await?;
    eventually("the ghost is there", || {
        !Process::with_argument("sleep 7650301").is_empty()
    })
    .await?;
    container.let_go("/go").await?;
    ensure!(container.wait_exit().await?.exit_code == 3);
    ensure!(
        Process::with_argument("7650301").is_empty(),
        "it outlived its container"
    );
    ensure!(
        container
            .log()?
            .last()
            .is_some_and(|line| line.text == "last words")
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_orphans_of_execs_end_with_the_container_in_a_shared_pid_namespace() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node
        .run_pod("haunted", pid_mode(NamespaceMode::Pod))
        .await?;
    let neighbour = pod.start("neighbour", |_| ()).await?;
    let script = "echo ready; until [ -e /go ]; do sleep 0.02; done; exit 3";
    let container = pod
        .start("main", |config| config.command = sh(script))
        .await?;
    container.wait_log("ready").await?;
    // PID 1 is pause here.
    container
        .sh(&ghost(7_650_302).replace("/proc/1/fd/1", "/dev/null"))
        .await?;
    eventually("the orphan is there", || {
        !Process::with_argument("sleep 7650302").is_empty()
    })
    .await?;
    container.let_go("/go").await?;
    ensure!(container.wait_exit().await?.exit_code == 3);
    eventually("the orphan is gone", || {
        Process::with_argument("7650302").is_empty()
    })
    .await?;
    ensure!(neighbour.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_process_in_a_cgroup_of_its_own_making_ends_with_the_container() -> Result<()> {
    let node = Node::start().await?;
    let privileged = |config: &mut PodSandboxConfig| {
        pid_mode(NamespaceMode::Pod)(config);
        allow_privileged(config);
    };
    let pod = node.run_pod("haunted", privileged).await?;
    let script = "echo ready; until [ -e /go ]; do sleep 0.02; done; exit 3";
    let container = pod
        .start("main", |config| {
            config.command = sh(script);
            security(config).privileged = true;
        })
        .await?;
    container.wait_log("ready").await?;
    // On version 2 it sees all of the host's.
    let hide = "set -- /sys/fs/cgroup/*; [ ! -e /sys/fs/cgroup/cgroup.controllers ] || \
                set -- /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); \
                for dir; do mkdir $dir/hidden && echo $$ >$dir/hidden/cgroup.procs; done 2>/dev/null; \
                exec sleep 7650303";
    container
        .sh(&format!("setsid sh -c '{hide}' >/dev/null 2>&1 &"))
        .await?;
    eventually("it hides", || {
        !Process::with_argument("sleep 7650303").is_empty()
    })
    .await?;
    container.let_go("/go").await?;
    ensure!(container.wait_exit().await?.exit_code == 3);
    eventually("what hid is gone", || {
        Process::with_argument("7650303").is_empty()
    })
    .await?;
    ensure!(container.status().await?.state() == ContainerState::ContainerExited);
    container.remove().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_whose_target_has_ended_joins_nobody_elses_pid_namespace() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node.run_pod("debugged", |_| ()).await?;
    let target = pod.start("target", |_| ()).await?;
    let debugging = |config: &mut ContainerConfig| {
        security(config).namespace_options = Some(NamespaceOption {
            pid: NamespaceMode::Target.into(),
            target_id: target.id.clone(),
            ..NamespaceOption::default()
        });
    };
    let early = pod.create("early", debugging).await?;
    let late = pod.create("late", debugging).await?;
    early.start().await?;
    ensure!(early.process().await?.namespace("pid")? == target.process().await?.namespace("pid")?);
    target.stop(0).await?;
    // By now its number may be any other process's.
    let refused = late.start().await.err().context("it was started")?;
    ensure!(refused.message().contains("does not run"), "{refused}");
    node.finish().await
}
