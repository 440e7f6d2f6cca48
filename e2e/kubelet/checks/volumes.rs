//! Volumes of the kubelet's making.

use crate::kubelet::Kubelet;
use anyhow::{Result, ensure};
use crisp_e2e::manifest::sh_with;
use serde_json::{Value, json};
use std::fs;

fn mount(volume: &str) -> Value {
    json!({"volumeMounts": [{"name": volume, "mountPath": "/volume"}]})
}

pub(super) async fn empty_dir_is_shared_by_the_containers_of_a_pod(
    kubelet: &Kubelet,
) -> Result<()> {
    let pod = kubelet.add(
        "emptydir",
        json!({
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "containers": [
                sh_with("writer", "echo hello >/volume/file; sleep 1000", mount("shared")),
                sh_with("reader", "until cat /volume/file; do sleep 0.1; done; sleep 1000", mount("shared")),
            ],
            "terminationGracePeriodSeconds": 0,
        }),
    )?;
    pod.ready().await?;
    ensure!(pod.exec("reader", "cat /volume/file").await? == "hello\n");
    pod.remove().await
}

pub(super) async fn empty_dir_in_memory_is_a_tmpfs_of_its_size(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add(
        "memory",
        json!({
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}],
            "containers": [sh_with("main", "sleep 1000", mount("memory"))],
            "terminationGracePeriodSeconds": 0,
        }),
    )?;
    pod.ready().await?;
    let mounts = pod.exec("main", "grep ' /volume ' /proc/mounts").await?;
    ensure!(
        mounts.starts_with("tmpfs ") && mounts.contains("size=8192k"),
        "{mounts}"
    );
    pod.remove().await
}

pub(super) async fn host_path_shows_the_files_of_the_host(kubelet: &Kubelet) -> Result<()> {
    let dir = kubelet.shared().join("hostpath");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("file"), "of the host\n")?;
    let read_only =
        json!({"volumeMounts": [{"name": "host", "mountPath": "/volume", "readOnly": true}]});
    let pod = kubelet.add(
        "hostpath",
        json!({
            "volumes": [{"name": "host", "hostPath": {"path": dir, "type": "Directory"}}],
            "containers": [
                sh_with("reader", "sleep 1000", read_only),
                sh_with("writer", "echo of the pod >/volume/back; sleep 1000", mount("host")),
            ],
            "terminationGracePeriodSeconds": 0,
        }),
    )?;
    pod.ready().await?;
    ensure!(pod.exec("reader", "cat /volume/file").await? == "of the host\n");
    ensure!(pod.try_exec("reader", "touch /volume/no").await?.code == Some(1));
    ensure!(fs::read_to_string(dir.join("back"))? == "of the pod\n");
    pod.remove().await
}

pub(super) async fn downward_api_shows_the_pod_to_itself_by_sub_path(
    kubelet: &Kubelet,
) -> Result<()> {
    let main = sh_with(
        "main",
        "cat /etc/of-the-pod; echo $ADDRESS $LIMIT; sleep 1000",
        json!({
            "volumeMounts": [{"name": "info", "mountPath": "/etc/of-the-pod", "subPath": "deep/annotation"}],
            "env": [
                {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            ],
            "resources": {"limits": {"memory": "32Mi"}},
        }),
    );
    // A projected volume takes a client of the API server, even of this alone.
    let source = json!({"items": [
        {"path": "deep/annotation", "fieldRef": {"fieldPath": "metadata.annotations['word']"}},
    ]});
    let pod = kubelet.add_with(
        "downward",
        json!({"word": "told\n"}),
        json!({
            "volumes": [{"name": "info", "downwardAPI": source}],
            "containers": [main],
            "terminationGracePeriodSeconds": 0,
        }),
    )?;
    let object = pod.ready().await?;
    let address = object["status"]["podIP"].as_str().unwrap_or_default();
    let said = pod.logs("main").await?;
    ensure!(
        said == format!("told\n{address} {}\n", 32 << 20),
        "{said:?}"
    );
    pod.remove().await
}
