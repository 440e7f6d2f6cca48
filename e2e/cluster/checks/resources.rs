//! Limits, what is done to a pod beyond them, and how a pod is run and probed.

use super::{agnhost, pod, text};
use crate::cluster::Cluster;
use crate::worker::POD_PIDS_LIMIT;
use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::{pause, pause_with, sh, sh_with};
use crisp_e2e::{Cgroup, cgroups_are_v2};
use serde_json::{Value, json};

/// The cgroup of a pod's only container.
async fn cgroup(cluster: &Cluster, pod: &Value, controller: &str) -> Result<Cgroup> {
    let node = text(pod, "/spec/nodeName")?;
    let worker = cluster.workers.iter().find(|worker| worker.name() == node);
    let worker = worker.context("it is on no node")?;
    let id = text(pod, "/status/containerStatuses/0/containerID")?;
    let id = id.strip_prefix("crisp://").context("another runtime's")?;
    worker.node.process_of(id).await?.cgroup(controller)
}

pub(super) async fn resize_in_place_changes_the_cgroup(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("resize").await?;
    let limits = |cpu: &str, memory: &str| {
        let both = json!({"cpu": cpu, "memory": memory});
        json!({"resources": {"requests": both, "limits": both}})
    };
    let main = pause_with("main", limits("100m", "32Mi"));
    kubectl
        .apply(&pod("growing", json!({"containers": [main]})))
        .await?;
    kubectl.ready("growing").await?;
    let before = kubectl.get("pod growing").await?;
    let (memory_file, cpu_file, quota) = if cgroups_are_v2() {
        ("memory.max", "cpu.max", "30000 100000")
    } else {
        ("memory.limit_in_bytes", "cpu.cfs_quota_us", "30000")
    };
    let memory = cgroup(cluster, &before, "memory").await?;
    let cpu = cgroup(cluster, &before, "cpu").await?;
    ensure!(memory.read(memory_file)? == (32 << 20).to_string());
    let mut container = limits("300m", "64Mi");
    container["name"] = json!("main");
    let patch = json!({"spec": {"containers": [container]}}).to_string();
    kubectl
        .run_with(
            &[
                "patch",
                "pod",
                "growing",
                "--subresource=resize",
                "-p",
                &patch,
            ],
            "",
        )
        .await?;
    cluster
        .until("the limits are in force", async || {
            let memory = memory.read(memory_file).ok()?;
            (memory == (64 << 20).to_string() && cpu.read(cpu_file).ok()? == quota).then_some(())
        })
        .await?;
    let told = cluster.until("the status tells it", async || {
        let pod = kubectl.get("pod growing").await.ok()?;
        let status = pod["status"]["containerStatuses"]
            .as_array()?
            .first()?
            .clone();
        (status["resources"]["limits"] == json!({"cpu": "300m", "memory": "64Mi"}))
            .then_some(status)
    });
    let told = told.await?;
    let same = &before["status"]["containerStatuses"][0]["containerID"];
    ensure!(
        told["containerID"] == *same && told["restartCount"] == 0,
        "{told}"
    );
    kubectl.delete_namespace().await
}

pub(super) async fn fork_bomb_is_held_by_the_pods_pid_limit(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("pids").await?;
    let bomb = sh(
        "main",
        "i=0; while [ $i -lt 400 ]; do sleep 1000 & i=$((i+1)); echo $i; done",
    );
    let spec = json!({"restartPolicy": "Never", "containers": [bomb, pause("beside")], "terminationGracePeriodSeconds": 1});
    kubectl.apply(&pod("bomb", spec)).await?;
    cluster
        .until("the shell gives up", async || {
            let said = kubectl.run("logs bomb -c main").await.ok()?;
            said.contains("can't fork").then_some(())
        })
        .await?;
    let said = kubectl.run("logs bomb -c main").await?;
    let forked = said
        .lines()
        .filter_map(|line| line.parse::<u32>().ok())
        .max();
    ensure!(forked < Some(POD_PIDS_LIMIT), "{said}");
    kubectl.delete_namespace().await
}

pub(super) async fn pod_over_its_ephemeral_storage_is_evicted(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("storage").await?;
    let limits = json!({"resources": {"limits": {"ephemeral-storage": "4Mi"}}});
    let main = sh_with(
        "main",
        "head -c 30000000 /dev/zero >/file; echo written; sleep 1000",
        limits,
    );
    kubectl
        .apply(&pod(
            "greedy",
            json!({"containers": [main], "terminationGracePeriodSeconds": 1}),
        ))
        .await?;
    cluster
        .until("the pod is evicted", async || {
            let pod = kubectl.get("pod greedy").await.ok()?;
            (pod["status"]["reason"] == "Evicted").then_some(())
        })
        .await?;
    let object = kubectl.get("pod greedy").await?;
    let message = text(&object, "/status/message")?;
    ensure!(message.contains("ephemeral"), "{message}");
    kubectl.delete_namespace().await
}

pub(super) async fn runtime_class_runs_a_pod_by_runc(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("class").await?;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "by-runc"}, "handler": "runc"});
    let spec = |class: &str| json!({"runtimeClassName": class, "containers": [pause("main")]});
    kubectl
        .apply(&json!([class, pod("other", spec("by-runc"))]))
        .await?;
    kubectl.ready("other").await?;
    let said = kubectl.exec("other", "echo here").await?;
    ensure!(said == "here\n", "{said}");
    let object = kubectl.get("pod other").await?;
    let mut handlers = Vec::new();
    for worker in &cluster.workers {
        for pod in worker.node.pods().await? {
            let uid = pod.metadata.map(|metadata| metadata.uid);
            if uid.as_deref() == object["metadata"]["uid"].as_str() {
                handlers.push(pod.runtime_handler);
            }
        }
    }
    ensure!(handlers == ["runc"], "{handlers:?}");
    kubectl.run("delete runtimeclass by-runc").await?;
    kubectl.delete_namespace().await
}

pub(super) async fn grpc_probe_decides_whether_a_pod_is_ready(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("grpc").await?;
    let probe = json!({"readinessProbe": {"grpc": {"port": 5000}, "periodSeconds": 1}});
    let main = agnhost(&["grpc-health-checking"], probe);
    kubectl
        .apply(&pod("health", json!({"containers": [main]})))
        .await?;
    kubectl.ready("health").await?;
    for (order, ready) in [("make-not-serving", "False"), ("make-serving", "True")] {
        let asks = format!("wget -q -O - http://127.0.0.1:8080/{order}");
        kubectl.exec("health", &asks).await?;
        kubectl
            .wait(&format!("--for=condition=Ready={ready} pod/health"))
            .await?;
    }
    kubectl.delete_namespace().await
}
