//! A client of an older release of the CRI, which knows none of the fields and RPCs that came since.

use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Node, tools};
use serde_json::{Value, json};
use tokio::process::Command;

/// What the client was answered, by RPC.
async fn drive(node: &Node) -> Result<Value> {
    let output = Command::new(tools::program("tools/bin/older-client"))
        .arg(node.socket())
        .arg(BUSYBOX)
        .arg(node.log_dir().join("older"))
        .arg(node.cgroup_parent())
        .kill_on_drop(true)
        .output()
        .await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{error}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_client_of_an_older_cri_is_served() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let answers = drive(&node).await?;
    let image = &answers["ImageStatus"]["image"];
    ensure!(image["repo_tags"] == json!([BUSYBOX]), "{image}");
    ensure!(answers["PullImage"]["image_ref"] == image["id"], "{image}");
    ensure!(answers["Version"]["runtime_name"] == "crisp");
    let conditions = &answers["Status"]["status"]["conditions"];
    let conditions = conditions.as_array().context("no conditions")?;
    ensure!(
        conditions
            .iter()
            .all(|condition| condition["status"] == true)
    );

    let pod = &answers["PodSandboxStatus"]["status"];
    ensure!(pod["metadata"]["attempt"] == 1, "{pod}");
    ensure!(pod["labels"] == json!({"name": "pod"}), "{pod}");
    ensure!(
        pod["network"]["ip"]
            .as_str()
            .is_some_and(|ip| !ip.is_empty()),
        "{pod}"
    );
    let container = &answers["ContainerStatus"]["status"];
    ensure!(container["state"] == 1, "{container}");
    ensure!(container["metadata"]["attempt"] == 2, "{container}");
    ensure!(container["labels"] == json!({"name": "container"}));
    ensure!(container["image_id"] == image["id"], "{container}");
    let limits = &container["resources"]["linux"];
    ensure!(limits["memory_limit_in_bytes"] == 64 << 20, "{limits}");
    ensure!(limits["cpu_shares"] == 512, "{limits}");
    ensure!(
        container["log_path"]
            .as_str()
            .is_some_and(|path| path.ends_with("older/main.log")),
        "{container}"
    );
    let exec = &answers["ExecSync"];
    ensure!(
        exec["exit_code"] == 7 && exec["stdout"] == json!(b"out\n"),
        "{exec}"
    );
    let stats = &answers["ContainerStats"]["stats"];
    ensure!(
        stats["memory"]["usage_bytes"]["value"].as_u64() > Some(0),
        "{stats}"
    );
    let stats = &answers["PodSandboxStats"]["stats"]["linux"];
    ensure!(
        stats["process"]["process_count"]["value"].as_u64() > Some(0),
        "{stats}"
    );

    let events = answers["GetContainerEvents"].as_array().context("none")?;
    for id in [
        &answers["RunPodSandbox"]["pod_sandbox_id"],
        &container["id"],
    ] {
        let kinds: Vec<_> = events
            .iter()
            .filter(|event| &event[0] == id)
            .filter_map(|event| event[1].as_str())
            .collect();
        let expected = ["CREATED", "STARTED", "STOPPED", "DELETED"]
            .map(|kind| format!("CONTAINER_{kind}_EVENT"));
        ensure!(kinds == expected, "{kinds:?}");
    }
    ensure!(node.pods().await?.is_empty());
    node.finish().await
}
