//! What else a person does with kubectl.

use super::{pod, text, web};
use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::fed;
use crisp_e2e::manifest::{pause, sh};
use serde_json::json;

pub(super) async fn ephemeral_container_joins_a_pod(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("debug").await?;
    kubectl
        .apply(&pod("web", json!({"containers": [web()]})))
        .await?;
    kubectl.ready("web").await?;
    let image = format!("--image={BUSYBOX}");
    // The processes of the container that it looks at, and the network of the pod.
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; wget -q -O - http://127.0.0.1:8080/hostname";
    let debug = [
        "debug",
        "web",
        &image,
        "--container=look",
        "--target=main",
        "--",
        "sh",
        "-c",
        script,
    ];
    kubectl.run_with(&debug, "").await?;
    cluster
        .until("the container has ended", async || {
            let pod = kubectl.get("pod web").await.ok()?;
            let status = pod["status"]["ephemeralContainerStatuses"]
                .as_array()?
                .first()?
                .clone();
            status["state"]["terminated"].is_object().then_some(())
        })
        .await?;
    let said = kubectl.run("logs web -c look").await?;
    ensure!(said == "/agnhost netexec web", "{said}");
    kubectl.delete_namespace().await
}

pub(super) async fn deletion_lets_a_pod_say_goodbye(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("goodbye").await?;
    let main = sh(
        "main",
        "trap 'echo told to end; sleep 2; echo goodbye; exit 0' TERM; echo here; while :; do sleep 0.2; done",
    );
    kubectl
        .apply(&pod("polite", json!({"containers": [main]})))
        .await?;
    let deaf = json!({"containers": [sh("main", "trap '' TERM; while :; do sleep 0.2; done")], "terminationGracePeriodSeconds": 3});
    kubectl.apply(&pod("deaf", deaf)).await?;
    kubectl
        .wait("--for=condition=Ready pod/polite pod/deaf")
        .await?;
    let follow = fed(kubectl.start(&["logs", "-f", "polite"])?, "");
    let delete = kubectl.run("delete pod polite deaf");
    let (said, deleted) = tokio::join!(follow, delete);
    deleted?;
    let said = said?.stdout;
    ensure!(said == "here\ntold to end\ngoodbye\n", "{said}");
    kubectl.delete_namespace().await
}

pub(super) async fn events_tell_of_a_pods_start(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("events").await?;
    kubectl
        .apply(&pod("new", json!({"containers": [pause("main")]})))
        .await?;
    kubectl.ready("new").await?;
    let events = kubectl.get("events").await?;
    let events = events["items"].as_array().context("no list")?;
    let reasons = events.iter().map(|event| text(event, "/reason"));
    let reasons: Vec<&str> = reasons.collect::<Result<_>>()?;
    for reason in ["Scheduled", "Created", "Started"] {
        ensure!(reasons.contains(&reason), "{reasons:?}");
    }
    let described = kubectl.run("describe pod new").await?;
    ensure!(described.contains("crisp://"), "{described}");
    kubectl.delete_namespace().await
}
