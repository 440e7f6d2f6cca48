//! How pods begin and end.

use crate::kubelet::Kubelet;
use crate::pod::container;
use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::{sh, sh_with};
use serde_json::{Value, json};
use std::fs;

pub(super) async fn init_containers_run_in_order_before_the_others(
    kubelet: &Kubelet,
) -> Result<()> {
    let mounts = json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]});
    let append = |word: &str| format!("echo {word} >>/work/order");
    let pod = kubelet.add(
        "init",
        json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "work", "emptyDir": {}}],
            "initContainers": [
                sh_with("one", &append("one"), mounts.clone()),
                sh_with("two", &append("two"), mounts.clone()),
            ],
            "containers": [sh_with("main", "cat /work/order", mounts)],
        }),
    )?;
    let object = pod.ended().await?;
    ensure!(
        object["status"]["phase"] == "Succeeded",
        "{}",
        object["status"]
    );
    ensure!(pod.logs("main").await? == "one\ntwo\n");
    pod.remove().await
}

pub(super) async fn sidecar_starts_before_and_ends_after_its_pod(kubelet: &Kubelet) -> Result<()> {
    let mounts = json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]});
    let mut sidecar = sh_with(
        "sidecar",
        "echo ready >/work/ready; trap 'echo told to end; exit 0' TERM; while :; do sleep 0.1; done",
        mounts.clone(),
    );
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["cat", "/work/ready"]}, "periodSeconds": 1});
    let pod = kubelet.add(
        "sidecar",
        json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "work", "emptyDir": {}}],
            "initContainers": [sidecar],
            "containers": [sh_with("main", "cat /work/ready; exit 3", mounts)],
        }),
    )?;
    let object = pod.ended().await?;
    let main = container(&object, "main")?;
    ensure!(main["state"]["terminated"]["exitCode"] == 3, "{main}");
    ensure!(pod.logs("main").await? == "ready\n");
    ensure!(pod.logs("sidecar").await? == "told to end\n");
    pod.remove().await
}

pub(super) async fn hooks_run_after_the_start_and_before_the_stop(kubelet: &Kubelet) -> Result<()> {
    let dir = kubelet.shared().join("hooks");
    fs::create_dir_all(&dir)?;
    let hook = |word: &str| json!({"exec": {"command": ["sh", "-c", format!("echo {word} >>/host/hooks")]}});
    let main = sh_with(
        "main",
        "trap 'echo term >>/host/hooks; exit 0' TERM; while :; do sleep 0.1; done",
        json!({
            "lifecycle": {"postStart": hook("postStart"), "preStop": hook("preStop")},
            "volumeMounts": [{"name": "host", "mountPath": "/host"}],
        }),
    );
    let pod = kubelet.add(
        "hooks",
        json!({"volumes": [{"name": "host", "hostPath": {"path": dir}}], "containers": [main]}),
    )?;
    pod.ready().await?;
    pod.remove().await?;
    let said = fs::read_to_string(dir.join("hooks"))?;
    ensure!(said == "postStart\npreStop\nterm\n", "{said:?}");
    Ok(())
}

pub(super) async fn pod_that_obeys_ends_within_its_grace_period(kubelet: &Kubelet) -> Result<()> {
    let script = "trap 'echo bye >/host/obeys; exit 0' TERM; while :; do sleep 0.1; done";
    ensure!(last_words(kubelet, "obeys", script, 600).await? == "bye\n");
    Ok(())
}

pub(super) async fn pod_that_does_not_obey_is_killed_after_its_grace_period(
    kubelet: &Kubelet,
) -> Result<()> {
    let script = "trap 'echo no >/host/stubborn' TERM
        while :; do sleep 0.2; [ -e /host/stubborn ] && echo still here >>/host/stubborn; done";
    let words = last_words(kubelet, "stubborn", script, 3).await?;
    // It had its time, and no more than that.
    let told_on = words.lines().filter(|line| *line == "still here").count();
    ensure!(
        words.starts_with("no\n") && (2..100).contains(&told_on),
        "{words}"
    );
    Ok(())
}

/// What a pod has written into the file of its name when it is gone.
async fn last_words(kubelet: &Kubelet, name: &str, script: &str, grace_s: u32) -> Result<String> {
    let main = sh_with(
        "main",
        script,
        json!({"volumeMounts": [{"name": "host", "mountPath": "/host"}]}),
    );
    let pod = kubelet.add(
        name,
        json!({
            "terminationGracePeriodSeconds": grace_s,
            "volumes": [{"name": "host", "hostPath": {"path": kubelet.shared()}}],
            "containers": [main],
        }),
    )?;
    pod.ready().await?;
    pod.remove().await?;
    fs::read_to_string(kubelet.shared().join(name)).context("it was not told to end")
}

pub(super) async fn termination_message_comes_from_the_file_or_the_log(
    kubelet: &Kubelet,
) -> Result<()> {
    let mut by_log = sh("log", "echo the log says so; exit 1");
    by_log["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut by_path = sh("path", "echo elsewhere >/tmp/message");
    by_path["terminationMessagePath"] = json!("/tmp/message");
    let pod = kubelet.add(
        "messages",
        json!({
            "restartPolicy": "Never",
            "containers": [sh("file", "echo the file says so >/dev/termination-log"), by_log, by_path],
        }),
    )?;
    let object = pod.ended().await?;
    for (name, message) in [
        ("file", "the file says so\n"),
        ("log", "the log says so\n"),
        ("path", "elsewhere\n"),
    ] {
        let status = container(&object, name)?;
        let terminated: &Value = &status["state"]["terminated"];
        ensure!(terminated["message"] == message, "{terminated}");
    }
    pod.remove().await
}
