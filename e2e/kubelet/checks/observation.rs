//! What a kubelet tells of pods, and what it does when they or it are in trouble.

use crate::kubelet::Kubelet;
use crate::pod::container;
use anyhow::{Context, Result, ensure};
use crisp_e2e::FiguresFrom;
use crisp_e2e::manifest::{pause, sh};
use serde_json::{Value, json};
use std::fs;

pub(super) async fn summary_tells_of_cpu_memory_and_network(kubelet: &Kubelet) -> Result<()> {
    tells_of_cpu_memory_and_network(kubelet, "stats").await
}

/// The same without cAdvisor, which then cannot ask crisp.
pub(super) async fn figures_come_from_the_runtime_too(kubelet: &Kubelet) -> Result<()> {
    kubelet.have_figures_from(FiguresFrom::Runtime).await?;
    let told = tells_of_cpu_memory_and_network(kubelet, "stats-by-cri").await;
    kubelet.have_figures_from(FiguresFrom::Cadvisor).await?;
    told
}

async fn tells_of_cpu_memory_and_network(kubelet: &Kubelet, name: &str) -> Result<()> {
    let busy = "trap 'exit 0' TERM; while :; do :; done";
    let pod = kubelet.add(
        name,
        json!({"containers": [sh("main", busy)], "terminationGracePeriodSeconds": 1}),
    )?;
    pod.ready().await?;
    kubelet
        .until("the summary is complete", async || {
            let summary = kubelet.get_json("/stats/summary").await.ok()?;
            let mut pods = summary["pods"].as_array()?.iter();
            let told = pods.find(|told| told["podRef"]["name"] == pod.name())?;
            let container = told["containers"].as_array()?.first()?;
            let complete = container["cpu"]["usageNanoCores"].as_u64()? > 0
                && container["memory"]["workingSetBytes"].as_u64()? > 0
                && container["rootfs"]["usedBytes"].is_u64()
                && container["logs"]["usedBytes"].is_u64()
                && told["network"]["rxBytes"].as_u64()? > 0;
            complete.then_some(())
        })
        .await?;
    for (metric, of) in [
        ("container_cpu_usage_seconds_total", "container=\"main\""),
        ("container_memory_working_set_bytes", "container=\"main\""),
        (
            "container_network_receive_bytes_total",
            "interface=\"eth0\"",
        ),
    ] {
        kubelet
            .until(&format!("cAdvisor tells {metric}"), async || {
                let metrics = kubelet.get("/metrics/cadvisor").await.ok()?;
                let told = metrics.lines().any(|line| {
                    line.starts_with(metric) && line.contains(pod.name()) && line.contains(of)
                });
                told.then_some(())
            })
            .await?;
    }
    pod.remove().await
}

pub(super) async fn logs_are_rotated(kubelet: &Kubelet) -> Result<()> {
    let write = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i of a log that is rotated; [ $((i % 500)) = 0 ] && sleep 0.5; done";
    let pod = kubelet.add("rotated", json!({"containers": [sh("main", write)]}))?;
    let object = pod.ready().await?;
    let uid = object["metadata"]["uid"].as_str().context("no uid")?;
    // The uid of a static pod's directory is that of its manifest.
    let directory = fs::read_dir(kubelet.pod_logs())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.display().to_string().contains("rotated"))
        .with_context(|| format!("no log directory of {uid}"))?
        .join("main");
    kubelet
        .until("there are rotated files", async || {
            let names: Vec<String> = fs::read_dir(&directory)
                .ok()?
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            let compressed = names.iter().any(|name| name.ends_with(".gz"));
            (names.len() >= 3 && compressed).then_some(())
        })
        .await?;
    let first = pod.logs("main").await?;
    kubelet
        .until("the log goes on", async || {
            let now = pod.logs("main").await.ok()?;
            (now != first && !now.is_empty()).then_some(())
        })
        .await?;
    pod.remove().await
}

/// The id of the container and how often it was restarted.
pub(super) fn identity(object: &Value) -> Result<(String, u64)> {
    let status = container(object, "main")?;
    let id = status["containerID"].as_str().context("no id")?;
    Ok((
        id.to_owned(),
        status["restartCount"].as_u64().context("no count")?,
    ))
}

pub(super) async fn kubelet_restart_leaves_containers_alone(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add("survivor", json!({"containers": [pause("main")]}))?;
    let before = identity(&pod.ready().await?)?;
    kubelet.kill()?;
    kubelet.run().await?;
    let after = identity(&pod.ready().await?)?;
    ensure!(before == after, "{before:?} became {after:?}");
    pod.remove().await
}

pub(super) async fn runtime_restart_leaves_containers_alone(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add("unmoved", json!({"containers": [pause("main")]}))?;
    let before = identity(&pod.ready().await?)?;
    kubelet.node.kill()?;
    kubelet.node.restart().await?;
    ensure!(pod.exec("main", "echo here").await? == "here\n");
    let after = identity(&pod.ready().await?)?;
    ensure!(before == after, "{before:?} became {after:?}");
    pod.remove().await
}
