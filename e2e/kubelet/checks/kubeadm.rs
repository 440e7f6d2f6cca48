//! What kubeadm asks of a runtime: its readiness, images, and that pods go. On a node of its own.

use crate::kubelet::Kubelet;
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::manifest::merged;
use crisp_e2e::{Image, Node, Output, Registry, tools};
use serde_json::json;
use std::fs;
use tokio::process::Command;

/// Hides what the host has of a Kubernetes, and the programs that start and stop its services.
const ALONE: &str = "for dir in /etc/kubernetes /var/lib/kubelet
    do [ ! -d $dir ] || mount -t tmpfs tmpfs $dir; done; PATH=; exec \"$@\"";

pub(super) async fn finds_the_runtime_pulls_images_and_removes_pods(_: &Kubelet) -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let socket = format!("unix://{}", node.socket().display());
    let version = kubeadm(&node, &["version", "--output=short"]).await?.stdout;
    let path = node.scratch()?.join("kubeadm.yaml");
    fs::write(&path, config(&socket, version.trim()))?;
    let config = format!("--config={}", path.display());
    let images = kubeadm(&node, &["config", "images", "list", &config])
        .await?
        .stdout;
    for name in images.lines() {
        publish(name)?;
    }

    // Not all of a host of tests is as it likes, and it says what is not, by the names of its own checks.
    let preflight = [
        "init",
        "phase",
        "preflight",
        "--ignore-preflight-errors=all",
        &config,
    ];
    let said = kubeadm(&node, &preflight).await?;
    for word in [
        " CRI]",
        " ContainerRuntimeVersion]",
        " ImagePull]",
        "sandbox image",
    ] {
        ensure!(!said.stderr.contains(word), "{}", said.stderr);
    }
    for name in images.lines() {
        ensure!(node.image(name).await?.is_some(), "{name} was not pulled");
    }

    node.run_pod("left", |_| ()).await?;
    let socket = format!("--cri-socket={socket}");
    kubeadm(&node, &["reset", "phase", "cleanup-node", &socket]).await?;
    let pods = node.pods().await?;
    ensure!(pods.is_empty(), "{pods:?}");
    node.finish().await
}

/// Has the registry serve an image that kubeadm names.
fn publish(name: &str) -> Result<()> {
    let (name, tag) = name.rsplit_once(':').context("no tag")?;
    let (_, repository) = name.split_once('/').context("no registry")?;
    Registry::shared().publish(repository, tag, &Image::new(vec![busybox_layer()]));
    Ok(())
}

/// A configuration that says what kubeadm would look for elsewhere.
fn config(socket: &str, version: &str) -> String {
    let kind = |kind: &str| json!({"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": kind});
    let node = json!({
        "nodeRegistration": {"name": "node", "criSocket": socket},
        // It takes none that is the host's alone; nobody ever connects to it.
        "localAPIEndpoint": {"advertiseAddress": "192.0.2.1"},
    });
    let node = merged(kind("InitConfiguration"), node);
    let cluster = json!({"kubernetesVersion": version});
    let cluster = merged(kind("ClusterConfiguration"), cluster);
    format!("{node}\n---\n{cluster}\n")
}

/// Runs it; it has to succeed.
async fn kubeadm(node: &Node, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::from(node.command("unshare"));
    let kubeadm = command
        .args(["--mount", "sh", "-c", ALONE, "sh"])
        .arg(tools::program("tools/kubernetes/kubeadm"))
        .args(arguments);
    let output = Output::from(kubeadm.kill_on_drop(true).output().await?);
    ensure!(output.code == Some(0), "kubeadm {arguments:?}: {output:?}");
    Ok(output)
}
