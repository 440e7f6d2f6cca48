//! What nodes tell, and what becomes of pods when their parts die or their node is emptied.

use super::{pod, service, text, web, workload};
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::{pause, sh};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) async fn nodes_tell_their_conditions_and_runtime(cluster: &Cluster) -> Result<()> {
    for worker in &cluster.workers {
        let node = cluster
            .kubectl
            .get(&format!("node {}", worker.name()))
            .await?;
        let conditions = node["status"]["conditions"]
            .as_array()
            .context("no conditions")?;
        for condition in conditions {
            let expected = if condition["type"] == "Ready" {
                "True"
            } else {
                "False"
            };
            ensure!(condition["status"] == expected, "{condition}");
        }
        let runtime = text(&node, "/status/nodeInfo/containerRuntimeVersion")?;
        ensure!(runtime.starts_with("crisp://"), "{runtime}");
        let handlers = node["status"]["runtimeHandlers"]
            .as_array()
            .context("no handlers")?;
        let named = |name: &str| handlers.iter().any(|handler| handler["name"] == name);
        ensure!(named("runc") && named("crun"), "{handlers:?}");
        ensure!(
            node["status"]["images"]
                .as_array()
                .is_some_and(|images| !images.is_empty())
        );
    }
    Ok(())
}

/// A deployment with pods on all nodes.
async fn deploy(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let replicas = json!({"replicas": 2 * cluster.workers.len()});
    let pods = json!({"containers": [web()], "terminationGracePeriodSeconds": 2});
    let deployment = workload("Deployment", "web", pods, replicas);
    kubectl
        .apply(&json!([deployment, service("web", json!({}))]))
        .await?;
    kubectl.rolled_out("deployment/web").await
}

/// The node, container and restarts of each pod.
async fn placement(kubectl: &Kubectl) -> Result<BTreeMap<String, String>> {
    let pods = kubectl.get("pods").await?;
    let pods = pods["items"].as_array().context("no list")?.iter();
    pods.map(|pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let place = format!(
            "{} {} {}",
            pod["spec"]["nodeName"], status["containerID"], status["restartCount"]
        );
        Ok((text(pod, "/metadata/name")?.to_owned(), place))
    })
    .collect()
}

pub(super) async fn runtime_restart_leaves_pods_alone(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("restart").await?;
    deploy(cluster, &kubectl).await?;
    let before = placement(&kubectl).await?;
    for worker in &cluster.workers {
        worker.node.kill()?;
        worker.node.restart().await?;
    }
    for pod in before.keys() {
        let asks = "wget -q -O - http://web/hostname >/dev/null && echo reached";
        let said = cluster
            .until("exec works", async || kubectl.exec(pod, asks).await.ok())
            .await?;
        ensure!(said == "reached\n", "{said}");
    }
    let after = placement(&kubectl).await?;
    ensure!(before == after, "{before:?} became {after:?}");
    kubectl.delete_namespace().await
}

pub(super) async fn kubelet_that_dies_is_noticed_and_comes_back(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("lost").await?;
    deploy(cluster, &kubectl).await?;
    let before = placement(&kubectl).await?;
    let worker = cluster.workers.last().context("no node")?;
    worker.kill_kubelet()?;
    let name = worker.name();
    kubectl
        .wait(&format!("--for=condition=Ready=Unknown node/{name}"))
        .await?;
    worker.run_kubelet().await?;
    kubectl
        .wait(&format!("--for=condition=Ready node/{name}"))
        .await?;
    kubectl.rolled_out("deployment/web").await?;
    let after = placement(&kubectl).await?;
    ensure!(before == after, "{before:?} became {after:?}");
    kubectl.delete_namespace().await
}

pub(super) async fn drain_evicts_and_another_node_takes_over(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("drain").await?;
    deploy(cluster, &kubectl).await?;
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    });
    kubectl.apply(&budget).await?;
    let name = cluster.workers.last().context("no node")?.name();
    let drain = format!("drain {name} --ignore-daemonsets --force --timeout=240s");
    let drained = kubectl.run(&drain).await;
    let rolled_out = kubectl.rolled_out("deployment/web").await;
    let places = placement(&kubectl).await?;
    kubectl.run(&format!("uncordon {name}")).await?;
    drained.and(rolled_out)?;
    ensure!(
        places.values().all(|place| !place.contains(&name)),
        "{places:?}"
    );
    kubectl.delete_namespace().await
}

pub(super) async fn node_whose_disk_is_full_evicts_and_recovers(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("pressure").await?;
    let name = cluster.workers.last().context("no node")?.name();
    let on_node = |pod_name: &str, container: Value| {
        let spec = json!({
            "nodeSelector": {"kubernetes.io/hostname": name},
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
        });
        pod(pod_name, spec)
    };
    let write = "while :; do head -c 20000000 /dev/zero >>/file; sleep 0.5; done";
    let pods = json!([
        on_node("modest", pause("main")),
        on_node("greedy", sh("main", write))
    ]);
    kubectl.apply(&pods).await?;
    kubectl.ready("modest").await?;
    let before = placement(&kubectl).await?["modest"].clone();
    let pressure = format!("--for=condition=DiskPressure=True node/{name}");
    let evicted = cluster.until("the pod is evicted", async || {
        let pod = kubectl.get("pod greedy").await.ok()?;
        let status = &pod["status"];
        (status["reason"] == "Evicted").then(|| status["message"].to_string())
    });
    let (pressed, message) = tokio::join!(kubectl.wait(&pressure), evicted);
    pressed?;
    let message = message?;
    ensure!(
        message.contains("low on resource: ephemeral-storage"),
        "{message}"
    );
    kubectl
        .wait(&format!("--for=condition=DiskPressure=False node/{name}"))
        .await?;
    kubectl.apply(&on_node("late", pause("main"))).await?;
    kubectl.ready("late").await?;
    let after = placement(&kubectl).await?["modest"].clone();
    ensure!(before == after, "{before} became {after}");
    kubectl.delete_namespace().await
}
