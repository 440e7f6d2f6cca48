//! Pods that CNI plugins wire: Debian's, and scripts that fail as real ones do.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{
    NamespaceMode, PodSandboxConfig, PodSandboxState, PodSandboxStatsRequest, RuntimeCondition,
    StatusRequest,
};
use crisp_e2e::catalog::{NGINX, NGINX_PAGE};
use crisp_e2e::{Node, await_page, eventually, http_get, nginx, until, with_host_port};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

/// Passes on what the plugin before it answered, but for ADDs that it is told to hang in.
const HANG: &str = r#"
config=$(cat)
[ $CNI_COMMAND = ADD ] || exit 0
[ -e hang ] && { touch reached; sleep 1000; }
echo "$config" | sed 's/.*"prevResult":\(.*}\),"type".*/\1/'"#;

/// The same, and refuses DEL until it is repaired.
const STUBBORN: &str = r#"
config=$(cat)
[ $CNI_COMMAND = DEL ] && [ ! -e repaired ] && { echo '{"code": 11, "msg": "the agent is away"}'; exit 1; }
[ $CNI_COMMAND = ADD ] || exit 0
echo "$config" | sed 's/.*"prevResult":\(.*}\),"type".*/\1/'"#;

/// A plugin of version 1.1 that makes nothing, and tells what it was asked.
const NEW: &str = r#"
cat >$CNI_COMMAND
[ $CNI_COMMAND = STATUS ] && [ -e away ] && { echo '{"code": 50, "msg": "the agent is away"}'; exit 1; }
[ $CNI_COMMAND = ADD ] || exit 0
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.211.0.9/24"}]}'"#;

fn shaped(config: &mut PodSandboxConfig) {
    let rate = (
        "kubernetes.io/ingress-bandwidth".to_owned(),
        "10M".to_owned(),
    );
    config.annotations.extend([rate]);
}

async fn network_condition(node: &Node) -> Result<RuntimeCondition> {
    let status = node
        .runtime()
        .status(StatusRequest { verbose: false })
        .await?;
    let conditions = status.into_inner().status.unwrap_or_default().conditions;
    let network = conditions.into_iter().find(|c| c.r#type == "NetworkReady");
    network.context("no condition of the network")
}

/// Waits until the network's condition says why pods wait; empty: it says that they need not.
async fn await_condition(node: &Node, message: &str) -> Result<()> {
    until(
        &format!("the network's condition says {message:?}"),
        async || {
            let condition = network_condition(node).await.ok()?;
            let ready = message.is_empty();
            let reason = if ready { "" } else { "NetworkPluginNotReady" };
            let said = condition.status == ready && condition.reason == reason;
            (said && condition.message.contains(message)).then_some(())
        },
    )
    .await
}

fn links() -> Result<String> {
    let output = Command::new("ip").args(["-o", "link"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_plugins_wire_pods_with_both_families_host_ports_and_bandwidth() -> Result<()>
{
    let node = Node::start().await?;
    node.pull(NGINX).await?;
    node.configure_cni(&node.cni_network(&[]))?;
    let server = node
        .run_pod("server", |config| {
            shaped(config);
            with_host_port(&node)(config);
        })
        .await?;
    server.start("nginx", nginx).await?;
    let client = node.run_pod("client", |_| ()).await?;
    let client = client.start("main", |_| ()).await?;

    let addresses = server.addresses().await?;
    ensure!(
        addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6(),
        "{addresses:?}"
    );
    ensure!(
        node.cni_addresses().len() == 4,
        "{:?}",
        node.cni_addresses()
    );
    for address in &addresses {
        await_page((*address, 80)).await?;
        let url = format!("http://{}/", SocketAddr::new(*address, 80));
        ensure!(
            client.sh(&format!("wget -q -O - {url}")).await? == NGINX_PAGE.trim_end(),
            "{url}"
        );
    }
    ensure!(client.sh("ip -o link show lo").await?.contains("UP"));
    await_page(([127, 0, 0, 1], node.host_port())).await?;
    let shaping = Command::new("tc").args(["qdisc", "show"]).output()?;
    let shaping = String::from_utf8_lossy(&shaping.stdout).into_owned();
    ensure!(
        shaping.contains("tbf") && shaping.contains("rate 10Mbit"),
        "{shaping}"
    );
    // The built-in network has nothing to do with it.
    ensure!(!links()?.contains(&format!(" {}:", node.bridge())));
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: server.id.clone(),
    };
    let stats = node
        .runtime()
        .pod_sandbox_stats(request)
        .await?
        .into_inner();
    let network = stats
        .stats
        .and_then(|s| s.linux?.network)
        .context("no traffic is told")?;
    let interface = network.default_interface.context("no interface is told")?;
    ensure!(interface.name == "eth0" && interface.tx_bytes.is_some_and(|b| b.value > 0));

    let told = node.crisp(&["inspect", &server.id]).await?.stdout;
    ensure!(
        told.contains("by CNI plugins bridge, portmap, bandwidth"),
        "{told}"
    );
    let checked = node.crisp(&["check"]).await?.stdout;
    ensure!(checked.contains("CNI network e2e-"), "{checked}");

    server.stop().await?;
    ensure!(
        node.cni_addresses().len() == 2,
        "{:?}",
        node.cni_addresses()
    );
    // Somebody else may listen there by now.
    let answer = http_get(([127, 0, 0, 1], node.host_port()).into(), "/").await;
    ensure!(!answer.is_ok_and(|page| page.contains(NGINX_PAGE)));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_pod_outlives_daemon_and_configuration() -> Result<()> {
    let node = Node::start().await?;
    let built_in = node.run_pod("built-in", |_| ()).await?;
    node.configure_cni(&node.cni_network(&[]))?;
    let plugged = node.run_pod("plugged", |_| ()).await?;
    let before = (built_in.addresses().await?, plugged.addresses().await?);
    ensure!(before.0.len() == 2 && before.1.len() == 2 && before.0 != before.1);
    std::fs::remove_file(node.cni_config())?;
    node.kill()?;
    node.restart().await?;
    let after = (built_in.addresses().await?, plugged.addresses().await?);
    ensure!(after == before, "{before:?} became {after:?}");
    // Each is taken off what it was wired to, whatever the next one would be.
    plugged.stop().await?;
    ensure!(
        node.cni_addresses().is_empty(),
        "{:?}",
        node.cni_addresses()
    );
    built_in.stop().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_daemon_killed_while_plugins_run_leaks_no_address() -> Result<()> {
    let node = Node::start().await?;
    node.cni_plugin("hang", HANG)?;
    node.configure_cni(&node.cni_network(&[json!({"type": "hang"})]))?;
    let scratch = node.scratch()?;
    // Killed with the plugin that hangs, once all others have made their part.
    std::fs::write(scratch.join("hang"), "")?;
    let reached = || eventually("the last plugin hangs", || scratch.join("reached").exists());
    tokio::select! {
        pod = node.run_pod("pod", |_| ()) => drop(pod?),
        hangs = reached() => hangs?,
    }
    ensure!(
        node.cni_addresses().len() == 2,
        "{:?}",
        node.cni_addresses()
    );
    node.kill()?;
    node.restart().await?;
    ensure!(
        node.cni_addresses().is_empty(),
        "{:?}",
        node.cni_addresses()
    );
    std::fs::remove_file(scratch.join("hang"))?;
    for round in 0..4 {
        // Each round the daemon dies at another point of the work.
        let some = Duration::from_millis(40 + 60 * round);
        let _ = tokio::time::timeout(some, node.run_pod("pod", |_| ())).await;
        node.kill()?;
        node.restart().await?;
    }
    // A DEL that stumbles over what a killed plugin left is repeated before the name is free again.
    let pod = until("the pod starts", async || {
        node.run_pod("pod", |_| ()).await.ok()
    })
    .await?;
    ensure!(pod.addresses().await?.len() == 2);
    ensure!(
        node.cni_addresses().len() == 2,
        "{:?}",
        node.cni_addresses()
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_delete_that_fails_is_retried_until_it_holds() -> Result<()> {
    let node = Node::start().await?;
    node.cni_plugin("stubborn", STUBBORN)?;
    node.configure_cni(&node.cni_network(&[json!({"type": "stubborn"})]))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    std::fs::remove_file(node.cni_config())?;
    for _ in 0..2 {
        let error = pod
            .stop()
            .await
            .err()
            .context("a failed DEL was not told")?;
        ensure!(error.message().contains("the agent is away"), "{error}");
        ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
        ensure!(pod.remove().await.is_err(), "the pod was forgotten");
        ensure!(
            node.cni_addresses().len() == 2,
            "{:?}",
            node.cni_addresses()
        );
        node.kill()?;
        node.restart().await?;
    }
    std::fs::write(node.scratch()?.join("repaired"), "")?;
    // Nobody asks for it.
    eventually("the addresses are given back", || {
        node.cni_addresses().is_empty()
    })
    .await?;
    pod.stop().await?;
    pod.remove().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_without_configuration_lets_only_host_network_pods_start() -> Result<()> {
    let node = Node::start_with(|config| {
        if let Some(network) = config["network"].as_table_mut() {
            network.insert("mode".to_owned(), "cni".into());
        }
    })
    .await?;
    await_condition(&node, "no CNI network is configured").await?;
    let refused = node.run_pod("pod", |_| ()).await.err();
    let error = refused.context("a pod was started without a network")?;
    ensure!(error.code() == tonic::Code::Unavailable, "{error}");
    ensure!(
        node.pods().await?.is_empty(),
        "the pod that failed is listed"
    );
    let host_network = |config: &mut PodSandboxConfig| {
        let security = config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        security.namespace_options.get_or_insert_default().network = NamespaceMode::Node.into();
    };
    node.run_pod("host", host_network).await?;

    node.configure_cni(&json!({"cniVersion": "1.0.0", "name": "wrong"}))?;
    await_condition(&node, "10-e2e.conflist").await?;
    node.configure_cni(&node.cni_network(&[json!({"type": "not-installed"})]))?;
    await_condition(&node, "\"not-installed\" is not in").await?;
    ensure!(node.run_pod("pod", |_| ()).await.is_err());
    node.configure_cni(&node.cni_network(&[]))?;
    await_condition(&node, "").await?;
    node.run_pod("pod", |_| ()).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_plugins_tell_their_status_and_collect_garbage() -> Result<()> {
    let node = Node::start().await?;
    node.cni_plugin("new", NEW)?;
    node.configure_cni(
        &json!({"cniVersion": "1.1.0", "name": "new", "plugins": [{"type": "new"}]}),
    )?;
    let scratch = node.scratch()?;
    let pod = node.run_pod("pod", |_| ()).await?;
    ensure!(pod.addresses().await? == [IpAddr::from([10, 211, 0, 9])]);
    let told = |verb: &str| -> Result<Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(
            scratch.join(verb),
        )?)?)
    };
    ensure!(told("CHECK")?["prevResult"]["ips"][0]["address"] == "10.211.0.9/24");
    node.run_pod("stopped", |_| ()).await?.stop().await?;

    node.kill()?;
    node.restart().await?;
    let valid = json!([{"containerID": pod.id, "ifname": "eth0"}]);
    until("garbage is collected", async || {
        let told = told("GC").ok()?;
        (told["cni.dev/valid-attachments"] == valid).then_some(())
    })
    .await?;

    await_condition(&node, "").await?;
    std::fs::write(scratch.join("away"), "")?;
    await_condition(&node, "the agent is away").await?;
    let info: Value = serde_json::from_str(&node.crictl(&["info"]).await?.stdout)?;
    ensure!(info.to_string().contains("the agent is away"), "{info}");
    std::fs::remove_file(scratch.join("away"))?;
    await_condition(&node, "").await?;
    let info: Value = serde_json::from_str(&node.crictl(&["info"]).await?.stdout)?;
    let network = &info["cniconfig"]["Networks"][0]["Config"];
    ensure!(
        network["Name"] == "new" && network["CNIVersion"] == "1.1.0",
        "{info}"
    );
    ensure!(info["lastCNILoadStatus"] == "OK", "{info}");
    node.finish().await
}

/// The same, but for DELs that it is told to hang in.
const HANG_DEL: &str = r#"
config=$(cat)
[ $CNI_COMMAND = DEL ] && [ -e hang ] && { touch reached; while [ -e hang ]; do sleep 0.05; done; }
[ $CNI_COMMAND = ADD ] || exit 0
echo "$config" | sed 's/.*"prevResult":\(.*}\),"type".*/\1/'"#;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cni_delete_that_hangs_holds_up_nobody_and_is_done_by_the_next_daemon()
-> Result<()> {
    let node = Node::start().await?;
    node.cni_plugin("hang", HANG_DEL)?;
    node.configure_cni(&node.cni_network(&[json!({"type": "hang"})]))?;
    let scratch = node.scratch()?;
    let pod = node.run_pod("pod", |_| ()).await?;
    std::fs::write(scratch.join("hang"), "")?;
    let reached = || eventually("the plugin hangs", || scratch.join("reached").exists());
    tokio::select! {
        stopped = pod.stop() => anyhow::bail!("stopped all the same: {stopped:?}"),
        hangs = reached() => hangs?,
    }
    // Its client has gone; others are served.
    let other = node.run_pod("other", |_| ()).await?;
    let container = other.start("main", |_| ()).await?;
    ensure!(container.sh("echo alive").await? == "alive");
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    node.kill()?;
    node.restart().await?;
    ensure!(container.sh("echo alive").await? == "alive");
    std::fs::remove_file(scratch.join("hang"))?;
    // Two are the other pod's.
    eventually("the addresses are given back", || {
        node.cni_addresses().len() == 2
    })
    .await?;
    until("the pod is removed", async || pod.remove().await.ok()).await?;
    node.finish().await
}
