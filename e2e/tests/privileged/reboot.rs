//! The host loses power: everything is reported as ended with its cause, and all can be used again.

use anyhow::{Result, ensure};
use crisp_cri_api::v1::{ContainerState, PodSandboxConfig, PodSandboxState};
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Container, Node, Pod, allow_reboots, sh, with_host_port};
use std::collections::BTreeSet;
use toml::Value;
use tonic::Status;

/// A node with addresses for this many pods.
const ADDRESSES: usize = 5;

async fn start_node() -> Result<Node> {
    Node::start_with(|config| {
        allow_reboots(config);
        let cidrs = &mut config["network"]["pod_cidrs"];
        let narrow = cidrs[0].as_str().unwrap_or_default().replace("/24", "/29");
        cidrs[0] = Value::String(narrow);
    })
    .await
}

async fn reboot(node: &Node) -> Result<()> {
    node.kill()?;
    node.reboot()?;
    node.restart().await?;
    // One that was not synced yet is dropped as a whole.
    node.pull(BUSYBOX).await?;
    Ok(())
}

/// A pod with a port of the host.
async fn run_ready(node: &Node, attempt: u32) -> Result<Pod<'_>, Status> {
    node.run_pod("ready", |config| {
        config.metadata.get_or_insert_default().attempt = attempt;
        with_host_port(node)(config);
    })
    .await
}

/// Exit code, reason and message of a container that has ended.
async fn end_of(container: &Container<'_>) -> Result<(i32, String, String)> {
    let status = container.status().await?;
    ensure!(
        status.state() == ContainerState::ContainerExited,
        "{status:?}"
    );
    ensure!(status.finished_at >= status.started_at, "{status:?}");
    Ok((status.exit_code, status.reason, status.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_reboot_of_the_host_is_told_as_the_cause_of_every_end() -> Result<()> {
    let node = start_node().await?;
    let pod = run_ready(&node, 0).await?;
    let running = pod.start("running", |_| ()).await?;
    let created = pod.create("created", |_| ()).await?;
    let exited = pod
        .start("exited", |config| config.command = sh("exit 3"))
        .await?;
    exited.wait_exit().await?;
    let stopped = node.run_pod("stopped", |_| ()).await?;
    let ended = stopped.start("ended", |_| ()).await?;
    stopped.stop().await?;

    // The second time, another daemon has reported already what the first boot left.
    for _ in 0..2 {
        reboot(&node).await?;
        for pod in [&pod, &stopped] {
            ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
        }
        let unknown = (255, "Unknown".into(), "the host was restarted".into());
        ensure!(end_of(&running).await? == unknown);
        ensure!(end_of(&created).await? == unknown);
        ensure!(end_of(&exited).await? == (3, "Error".into(), String::new()));
        ensure!(end_of(&ended).await?.0 == 137);
        node.audit_records().await?;
    }

    // As the kubelet starts it again, beside what it has not removed yet.
    let next = run_ready(&node, 1).await?;
    let again = next.start("running", |_| ()).await?;
    ensure!(again.sh("echo anew").await? == "anew");
    pod.stop().await?;
    pod.remove().await?;
    ensure!(again.sh("echo still there").await? == "still there");
    next.remove().await?;
    run_ready(&node, 0).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_addresses_of_pods_are_free_after_a_reboot_of_the_host() -> Result<()> {
    let node = start_node().await?;
    let mut before = Vec::new();
    for index in 0..ADDRESSES {
        before.push(node.run_pod(&format!("pod-{index}"), |_| ()).await?);
    }
    ensure!(node.run_pod("one-too-many", |_| ()).await.is_err());

    reboot(&node).await?;

    let mut addresses = BTreeSet::new();
    for (index, old) in before.iter().enumerate() {
        let attempt = |config: &mut PodSandboxConfig| {
            config.metadata.get_or_insert_default().attempt = 1;
        };
        let pod = node.run_pod(&format!("pod-{index}"), attempt).await?;
        addresses.extend(pod.addresses().await?);
        old.remove().await?;
    }
    ensure!(addresses.len() == 2 * ADDRESSES, "{addresses:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_that_plugins_wired_gives_its_address_back_after_a_reboot_of_the_host()
-> Result<()> {
    let node = start_node().await?;
    node.configure_cni(&node.cni_network(&[]))?;
    let pod = node.run_pod("wired", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    ensure!(!node.cni_addresses().is_empty());

    reboot(&node).await?;

    ensure!(end_of(&container).await?.2 == "the host was restarted");
    ensure!(node.cni_addresses() == [""; 0]);
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    pod.remove().await?;
    node.run_pod("wired", |_| ()).await?;
    node.finish().await
}
