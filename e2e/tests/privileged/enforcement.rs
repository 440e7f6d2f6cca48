//! What limits do to those who run into them, and to nobody else.

use crate::events::{next, subscribe};
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerEventType, ContainerState, ListPodSandboxMetricsRequest};
use crisp_e2e::{Node, Process, eventually, resources, sh};
use std::fs;

const MIB: i64 = 1 << 20;
const SPIN: &str = "while :; do :; done";

/// The processor that a process ran on last: field 39 of proc_pid_stat(5).
fn processor(process: Process) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.0)).ok()?;
    // Its name may have blanks.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(39 - 3)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cpuset_of_a_running_container_moves_its_processes() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("moving", |_| ()).await?;
    let container = pod
        .start("spin", |config| {
            config.command = sh(SPIN);
            resources(config).cpuset_cpus = "0".to_owned();
        })
        .await?;
    let process = container.process().await?;
    for cpu in [0, 1, 0] {
        container
            .update(|limits| limits.cpuset_cpus = cpu.to_string())
            .await?;
        let allowed = process.status("Cpus_allowed_list");
        ensure!(allowed == Some(cpu.to_string()), "{allowed:?}");
        let runs_there = || processor(process) == Some(cpu);
        eventually("it runs on the other processor", runs_there).await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_throttled_periods_are_told_as_the_kernel_counts_them() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("throttled", |_| ()).await?;
    let container = pod
        .start("spin", |config| {
            config.command = sh(SPIN);
            let resources = resources(config);
            resources.cpu_quota = 10_000;
            resources.cpu_period = 50_000;
        })
        .await?;
    let cpu = container.cgroup("cpu").await?;
    let kernel = || cpu.read_key("cpu.stat", "nr_throttled");
    eventually("the quota runs out", || {
        kernel().is_ok_and(|count| count > 10)
    })
    .await?;
    let before = kernel()?;
    let request = ListPodSandboxMetricsRequest {};
    let answer = node.runtime().list_pod_sandbox_metrics(request).await?;
    let after = kernel()?;
    let pods = answer.into_inner().pod_metrics;
    let mut metrics = pods.iter().flat_map(|pod| &pod.container_metrics);
    let metrics = metrics.find(|of| of.container_id == container.id);
    let metrics = &metrics.context("no metrics")?.metrics;
    let name = "container_cpu_cfs_throttled_periods_total";
    let told = metrics.iter().find(|metric| metric.name == name);
    let told = told.and_then(|metric| metric.value.as_ref());
    let told = told.context("the periods are missing")?.value;
    ensure!((before..=after).contains(&told), "{before} {told} {after}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_oom_kill_is_told_of_the_container_that_it_happened_in() -> Result<()> {
    let node = Node::start().await?;
    let mut events = subscribe(node.runtime()).await?;
    let pod = node.run_pod("oom", |_| ()).await?;
    let limit = |config: &mut _| resources(config).memory_limit_in_bytes = 32 * MIB;
    let neighbour = pod.start("neighbour", limit).await?;
    let eater = pod
        .start("eater", |config| {
            limit(config);
            config.command = sh("x=0123456789; while :; do x=$x$x; done");
        })
        .await?;
    let stopped = loop {
        let event = next(&mut events).await?;
        if event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
            break event;
        }
    };
    ensure!(stopped.container_id == eater.id, "{stopped:?}");
    let status = stopped
        .containers_statuses
        .iter()
        .find(|of| of.id == eater.id);
    let status = status.context("the event lacks the container")?;
    ensure!(
        (status.reason.as_str(), status.exit_code) == ("OOMKilled", 137),
        "{status:?}"
    );
    let other = neighbour.status().await?;
    ensure!(
        other.state() == ContainerState::ContainerRunning,
        "{other:?}"
    );
    // What is killed in a container that goes on is not its end.
    let hog = neighbour
        .exec(&["sh", "-c", "x=0123456789; while :; do x=$x$x; done"])
        .await?;
    ensure!(hog.code == 137, "{hog:?}");
    let other = neighbour.status().await?;
    ensure!(
        other.state() == ContainerState::ContainerRunning,
        "{other:?}"
    );
    node.finish().await
}
