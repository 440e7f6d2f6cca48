//! What a pod's restart policy promises.

use crate::kubelet::Kubelet;
use crate::pod::container;
use anyhow::{Result, ensure};
use crisp_e2e::manifest::{sh, sh_with};
use serde_json::json;

pub(super) async fn failed_container_comes_again_with_its_last_state(
    kubelet: &Kubelet,
) -> Result<()> {
    let pod = kubelet.add(
        "again",
        json!({"restartPolicy": "Always", "containers": [sh("main", "exit 42")]}),
    )?;
    let status = pod
        .until("the container restarted twice and backs off", |object| {
            let status = container(object, "main").ok()?.clone();
            let twice = status["restartCount"].as_u64()? >= 2;
            let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            (twice && waits).then_some(status)
        })
        .await?;
    let last = &status["lastState"]["terminated"];
    ensure!(
        last["exitCode"] == 42 && last["reason"] == "Error",
        "{last}"
    );
    ensure!(
        last["startedAt"].is_string() && last["finishedAt"].is_string(),
        "{last}"
    );
    pod.remove().await
}

pub(super) async fn container_that_is_never_to_restart_keeps_its_exit_code(
    kubelet: &Kubelet,
) -> Result<()> {
    let pod = kubelet.add(
        "never",
        json!({
            "restartPolicy": "Never",
            "containers": [sh("code", "exit 17"), sh("well", "true")],
        }),
    )?;
    let object = pod.ended().await?;
    ensure!(
        object["status"]["phase"] == "Failed",
        "{}",
        object["status"]
    );
    for (name, code, reason) in [("code", 17, "Error"), ("well", 0, "Completed")] {
        let terminated = &container(&object, name)?["state"]["terminated"];
        ensure!(
            terminated["exitCode"] == code && terminated["reason"] == reason,
            "{name}: {terminated}"
        );
    }
    pod.remove().await
}

pub(super) async fn container_that_succeeded_stays_as_it_is_on_failure(
    kubelet: &Kubelet,
) -> Result<()> {
    let pod = kubelet.add(
        "onfailure",
        json!({
            "restartPolicy": "OnFailure",
            "volumes": [{"name": "work", "emptyDir": {}}],
            "containers": [
                sh("well", "true"),
                sh_with(
                    "second-try",
                    "[ -e /work/tried ] || { touch /work/tried; exit 1; }",
                    json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]}),
                ),
            ],
        }),
    )?;
    let object = pod.ended().await?;
    ensure!(
        object["status"]["phase"] == "Succeeded",
        "{}",
        object["status"]
    );
    ensure!(container(&object, "well")?["restartCount"] == 0);
    ensure!(container(&object, "second-try")?["restartCount"] == 1);
    pod.remove().await
}
