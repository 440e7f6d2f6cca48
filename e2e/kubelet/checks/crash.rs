//! Kubelet and runtime die together, in the middle of what they do for pods.

use super::observation::identity;
use crate::kubelet::Kubelet;
use crate::pod::{StaticPod, container};
use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::{merged, pause, sh, sh_with};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What a container says that counts.
const COUNT: &str = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

pub(super) async fn kubelet_and_runtime_that_die_together_lose_nothing(
    kubelet: &Kubelet,
) -> Result<()> {
    let dir = kubelet.shared().join("crash");
    fs::create_dir_all(&dir)?;
    let first =
        json!({"initContainers": [told("first", "true")], "containers": [told("second", "true")]});
    let preparing = kubelet.add("preparing", once(&dir, first))?;
    let last = json!({"containers": [told("last", "echo goodbye; exit 23")]});
    let ending = kubelet.add("ending", once(&dir, last))?;
    let failing = kubelet.add("failing", json!({"containers": [sh("main", "exit 42")]}))?;
    let counting = kubelet.add("counting", json!({"containers": [sh("main", COUNT)]}))?;
    let leaving = kubelet.add("leaving", json!({"containers": [pause("main")]}))?;
    runs(&preparing, "first").await?;
    runs(&ending, "last").await?;
    leaving.ready().await?;
    let failures = failures_beyond(&failing, 0).await?;
    let before = identity(&counting.ready().await?)?;
    let count = counted(&counting).await?;

    kubelet.kill()?;
    kubelet.node.kill()?;
    let order = || fs::read_to_string(dir.join("order")).unwrap_or_default();
    fs::write(dir.join("go"), "")?;
    kubelet
        .until("containers end that nobody sees", async || {
            let order = order();
            let ended = |name| order.lines().any(|line| line == name);
            (ended("first") && ended("last")).then_some(())
        })
        .await?;
    let late = kubelet.add("late", json!({"containers": [pause("main")]}))?;
    let back = async {
        kubelet.node.restart().await?;
        kubelet.run().await
    };
    // The manifest goes before the kubelet is back.
    let (left, back) = tokio::join!(leaving.remove(), back);
    back.and(left)?;

    late.ready().await?;
    ensure!(preparing.ended().await?["status"]["phase"] == "Succeeded");
    let order = order();
    ensure!(
        order
            .lines()
            .filter(|name| *name != "last")
            .eq(["first", "second"]),
        "{order}"
    );
    let object = ending.ended().await?;
    let terminated = &container(&object, "last")?["state"]["terminated"];
    ensure!(terminated["exitCode"] == 23, "{terminated}");
    ensure!(ending.logs("last").await? == "goodbye\n");
    failures_beyond(&failing, failures).await?;
    ensure!(identity(&counting.ready().await?)? == before);
    ensure!(counted(&counting).await? > count);
    for pod in [late, preparing, ending, failing, counting] {
        pod.remove().await?;
    }
    Ok(())
}

/// A container that is there until it is told to go on by a file of the host's, and then says so there.
fn told(name: &str, then: &str) -> Value {
    let script =
        format!("until [ -e /host/go ]; do sleep 0.1; done; echo {name} >>/host/order; {then}");
    let mounts = json!({"volumeMounts": [{"name": "host", "mountPath": "/host"}]});
    sh_with(name, &script, mounts)
}

/// A pod whose containers run once each, with a directory of the host.
fn once(dir: &Path, spec: Value) -> Value {
    let host = json!([{"name": "host", "hostPath": {"path": dir}}]);
    merged(json!({"restartPolicy": "Never", "volumes": host}), spec)
}

async fn runs(pod: &StaticPod<'_>, name: &str) -> Result<()> {
    pod.until("the container runs", |object| {
        let state = &container(object, name).ok()?["state"];
        state["running"].is_object().then_some(())
    })
    .await
}

/// How often a container has failed when it has more often than that.
async fn failures_beyond(pod: &StaticPod<'_>, count: u64) -> Result<u64> {
    let status = pod.until("the container fails again", |object| {
        let status = container(object, "main").ok()?.clone();
        (status["restartCount"].as_u64()? > count).then_some(status)
    });
    let status = status.await?;
    let last = &status["lastState"]["terminated"];
    ensure!(last["exitCode"] == 42, "{status}");
    status["restartCount"].as_u64().context("no count")
}

/// How far a container has counted: no line is missing.
async fn counted(pod: &StaticPod<'_>) -> Result<usize> {
    let said = pod.logs("main").await?;
    let lines = said.lines().count();
    let expected = (1..=lines).map(|number| number.to_string());
    ensure!(said.lines().eq(expected), "{said}");
    Ok(lines)
}
