//! `crisp info`, beside the field's own command line.

use anyhow::{Result, ensure};
use crisp_e2e::Node;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_info_is_what_crictl_shows() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let own = node.crisp(&["info", "--json"]).await?;
    let own: Value = serde_json::from_str(&own.stdout)?;
    let theirs: Value = serde_json::from_str(&node.crictl(&["info"]).await?.stdout)?;
    ensure!(own == theirs, "{own:#} {theirs:#}");
    // What kubeadm and minikube look for.
    let config = &own["config"];
    ensure!(config["sandboxImage"].is_string(), "{config:#}");
    let driver = node.crictl(&["runtime-config"]).await?.stdout;
    let told = config["cgroupDriver"].as_str().unwrap_or_default();
    ensure!(
        driver.to_lowercase().contains(told) && !told.is_empty(),
        "{driver} is not {told:?}"
    );

    let table = node.crisp(&["info"]).await?.stdout;
    for line in ["RuntimeReady", "NetworkReady"] {
        let ready = table.lines().find(|found| found.starts_with(line));
        ensure!(ready.is_some_and(|line| line.ends_with("yes")), "{table}");
    }
    node.finish().await
}
