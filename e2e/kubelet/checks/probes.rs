//! Probes: exec goes through the runtime, the others to the pod's address.

use crate::kubelet::Kubelet;
use crate::pod::{condition, container};
use anyhow::{Result, ensure};
use crisp_e2e::catalog::NGINX;
use crisp_e2e::manifest::{merged, pause, pause_with, sh_with};
use serde_json::{Value, json};

/// An exec probe each second, which may take long on a machine that is emulated.
fn exec(script: &str) -> Value {
    json!({
        "exec": {"command": ["sh", "-c", script]},
        "periodSeconds": 1,
        "timeoutSeconds": 60,
        "failureThreshold": 1,
    })
}

pub(super) async fn readiness_decides_whether_a_pod_is_ready(kubelet: &Kubelet) -> Result<()> {
    let main = pause_with(
        "main",
        json!({"readinessProbe": exec("test -e /tmp/ready")}),
    );
    let pod = kubelet.add("readiness", json!({"containers": [main]}))?;
    let unready = pod
        .until("the container runs", |object| {
            let running = container(object, "main").ok()?["state"]["running"].is_object();
            running.then(|| object.clone())
        })
        .await?;
    ensure!(!condition(&unready, "Ready"));
    pod.exec("main", "touch /tmp/ready").await?;
    pod.ready().await?;
    pod.exec("main", "rm /tmp/ready").await?;
    pod.until("the pod is ready no longer", |object| {
        (!condition(object, "Ready")).then_some(())
    })
    .await?;
    pod.remove().await
}

pub(super) async fn failed_liveness_restarts_the_container(kubelet: &Kubelet) -> Result<()> {
    let main = sh_with(
        "main",
        "touch /tmp/alive; trap 'exit 5' TERM; while :; do sleep 0.1; done",
        json!({"livenessProbe": exec("test -e /tmp/alive")}),
    );
    let pod = kubelet.add("liveness", json!({"containers": [main]}))?;
    pod.ready().await?;
    pod.exec("main", "rm /tmp/alive").await?;
    let status = pod
        .until("the container restarted", |object| {
            let status = container(object, "main").ok()?.clone();
            (status["restartCount"] == 1).then_some(status)
        })
        .await?;
    ensure!(
        status["lastState"]["terminated"]["exitCode"] == 5,
        "{status}"
    );
    pod.remove().await
}

pub(super) async fn startup_holds_the_liveness_probe_back(kubelet: &Kubelet) -> Result<()> {
    let startup = merged(
        exec("test -e /tmp/started"),
        json!({"failureThreshold": 100}),
    );
    let main = sh_with(
        "main",
        "trap 'exit 0' TERM; sleep 4; touch /tmp/started; while :; do sleep 0.1; done",
        json!({"startupProbe": startup, "livenessProbe": exec("test -e /tmp/started")}),
    );
    let pod = kubelet.add("startup", json!({"containers": [main]}))?;
    let object = pod.ready().await?;
    let main = container(&object, "main")?;
    ensure!(
        main["restartCount"] == 0 && main["started"] == true,
        "{main}"
    );
    pod.remove().await
}

pub(super) async fn http_and_tcp_reach_the_pod(kubelet: &Kubelet) -> Result<()> {
    let web = json!({
        "name": "web",
        "image": NGINX,
        "imagePullPolicy": "IfNotPresent",
        "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/nothing", "port": 80}, "periodSeconds": 1, "initialDelaySeconds": 2, "failureThreshold": 10},
    });
    let side = pause("side");
    let pod = kubelet.add("http", json!({"containers": [web, side]}))?;
    pod.ready().await?;
    // A page that is not there fails the liveness probe.
    pod.until("the server restarted", |object| {
        let restarts = &container(object, "web").ok()?["restartCount"];
        (restarts.as_u64()? >= 1).then_some(())
    })
    .await?;
    let object = pod.ready().await?;
    ensure!(container(&object, "side")?["restartCount"] == 0);
    pod.remove().await
}
