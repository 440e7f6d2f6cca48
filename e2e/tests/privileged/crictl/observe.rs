//! What crictl tells of the runtime, and of what containers and pods use.

use super::{container_json, json, line, pod_json, write};
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Node, sh, systemd_makes_cgroups, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_info_tells_ready_and_cgroup_driver() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let info = json(&node, &["info"]).await?;
    let conditions = info["status"]["conditions"]
        .as_array()
        .context("no conditions")?;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let ready = conditions
            .iter()
            .any(|condition| condition["type"] == wanted && condition["status"] == true);
        ensure!(ready, "{wanted}: {info}");
    }
    let version = node.crictl(&["version"]).await?.stdout;
    ensure!(
        version.contains("RuntimeName:  crisp") && version.contains("RuntimeApiVersion:  v1"),
        "{version}"
    );
    let driver = node.crictl(&["runtime-config"]).await?.stdout;
    let wanted = match systemd_makes_cgroups() {
        true => "systemd",
        false => "cgroupfs",
    };
    ensure!(driver.to_lowercase().contains(wanted), "{driver}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_info_has_what_other_programs_look_for() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let info = json(&node, &["info"]).await?;
    let config = &info["config"];
    for key in ["sandboxImage", "stateDir", "maxContainerLogLineSize"] {
        ensure!(!config[key].is_null(), "{key}: {info}");
    }
    let handlers = info["runtimeHandlers"].as_array().context("no handlers")?;
    ensure!(
        handlers
            .iter()
            .any(|handler| handler["features"]["user_namespaces"] == true),
        "{info}"
    );
    ensure!(
        info["features"]["supplemental_groups_policy"] == true,
        "{info}"
    );
    node.finish().await
}

/// A number as crictl's JSON has it.
fn number(value: &Value) -> Option<u64> {
    value["value"].as_str()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_stats_have_every_figure_that_the_kernel_counts() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("figures", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("head -c 3000000 /dev/zero > /file; while :; do :; done")
        })
        .await?;
    let stats = until("all figures of the container", async || {
        let printed = json(&node, &["stats", "-o", "json", &container.id])
            .await
            .ok()?;
        let stats = printed["stats"][0].clone();
        let found = number(&stats["cpu"]["usageNanoCores"])? > 0
            && number(&stats["cpu"]["usageCoreNanoSeconds"])? > 0
            && number(&stats["memory"]["usageBytes"])? > 0
            && number(&stats["memory"]["rssBytes"])? > 0
            && number(&stats["memory"]["pageFaults"])? > 0
            && number(&stats["writableLayer"]["usedBytes"])? >= 3_000_000
            && number(&stats["writableLayer"]["inodesUsed"])? > 0;
        found.then_some(stats)
    })
    .await?;
    ensure!(stats["attributes"]["id"] == container.id, "{stats}");
    if Path::new("/proc/pressure").exists() {
        for resource in ["cpu", "memory", "io"] {
            ensure!(
                stats[resource]["psi"]["Some"].is_object(),
                "no pressure of {resource}: {stats}"
            );
        }
    }
    let printed = json(&node, &["statsp", "-o", "json", &pod.id]).await?;
    let linux = &printed["stats"][0]["linux"];
    ensure!(
        number(&linux["process"]["processCount"]) >= Some(2),
        "{printed}"
    );
    ensure!(
        linux["network"]["defaultInterface"]["name"] == "eth0",
        "{printed}"
    );
    ensure!(
        linux["containers"][0]["attributes"]["id"] == container.id,
        "{printed}"
    );
    // As a person sees it.
    let table = node.crictl(&["stats"]).await?.stdout;
    ensure!(table.contains(&container.id[..13]), "{table}");
    let table = node.crictl(&["statsp"]).await?.stdout;
    ensure!(table.contains(&pod.id[..13]), "{table}");
    node.finish().await
}

/// The label names of each metric that is described.
async fn described(node: &Node) -> Result<BTreeMap<String, usize>> {
    let printed = json(node, &["metricdescs", "-o", "json"]).await?;
    let descriptors = printed["descriptors"].as_array().context("none")?;
    descriptors
        .iter()
        .map(|descriptor| {
            let name = descriptor["name"].as_str().context("no name")?;
            ensure!(
                descriptor["help"]
                    .as_str()
                    .is_some_and(|help| !help.is_empty()),
                "{descriptor}"
            );
            let labels = descriptor["labelKeys"].as_array().map_or(0, Vec::len);
            Ok((name.to_owned(), labels))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_metrics_are_as_they_are_described() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("metrics", |_| ()).await?;
    pod.start("main", |_| ()).await?;
    let described = described(&node).await?;
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_network_receive_bytes_total",
        "container_fs_usage_bytes",
        "container_start_time_seconds",
        "container_tasks_state",
    ] {
        ensure!(described.contains_key(name), "{name} is not described");
    }
    let printed = json(&node, &["metricsp", "-o", "json"]).await?;
    let of_pod = &printed["podMetrics"][0];
    ensure!(of_pod["podSandboxId"] == pod.id, "{printed}");
    let of_containers = of_pod["containerMetrics"]
        .as_array()
        .context("no containers")?
        .iter()
        .flat_map(|container| container["metrics"].as_array().into_iter().flatten());
    let all = of_pod["metrics"].as_array().into_iter().flatten();
    let mut names = BTreeSet::new();
    for metric in all.chain(of_containers) {
        let name = metric["name"].as_str().context("no name")?;
        let labels = metric["labelValues"].as_array().map_or(0, Vec::len);
        ensure!(described.get(name) == Some(&labels), "{metric}");
        names.insert(name);
    }
    ensure!(
        names.contains("container_network_receive_bytes_total")
            && names.contains("container_memory_rss"),
        "{names:?}"
    );
    node.finish().await
}

/// The next of JSON objects that are each printed over several lines.
async fn next_object(from: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut text = String::new();
    while !text.ends_with("\n}\n") {
        ensure!(from.read_line(&mut text).await? > 0, "crictl ended");
    }
    Ok(serde_json::from_str(&text)?)
}

/// Creates and removes containers without end.
async fn churn(node: &Node, create: &[&str]) -> Result<Infallible> {
    loop {
        let container = line(node, create).await?;
        node.crictl(&["rm", &container]).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_events_are_printed_as_they_happen() -> Result<()> {
    let node = Node::start().await?;
    let mut crictl = node.start_crictl(&["--debug", "events"])?;
    let stdout = crictl.stdout.take().context("its output is a pipe")?;
    // It says nothing when it listens: something happens until it has heard of it.
    let dir = node.scratch()?;
    let pod_path = write(&dir, "pod.json", &pod_json(&node, "events"))?;
    let pod = line(&node, &["runp", &pod_path]).await?;
    let main = container_json("main", BUSYBOX, &["true"]);
    let path = write(&dir, "main.json", &main)?;
    let mut stdout = BufReader::new(stdout);
    let heard = async {
        loop {
            let event = next_object(&mut stdout).await?;
            if event["containerEventType"] == "CONTAINER_DELETED_EVENT" {
                return anyhow::Ok(event);
            }
        }
    };
    let create = ["create", &pod, &path, &pod_path];
    let event = tokio::select! {
        Err(error) = churn(&node, &create) => return Err(error),
        heard = heard => heard?,
    };
    ensure!(event["podSandboxStatus"]["id"] == pod, "{event}");
    // What was being made when the event came.
    drop(crictl);
    node.finish().await
}
