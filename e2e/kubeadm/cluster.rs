//! The life of a cluster, as kubeadm makes it: what is checked, each after the other.

use crate::images;
use crate::machine::{Machine, NODE_NAME};
use anyhow::{Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use serde_json::Value;

pub(crate) async fn init_makes_a_control_plane(machine: &Machine) -> Result<()> {
    let config = prepare(machine).await?;
    // CoreDNS waits for kube-proxy, and that one's image has to have more than a program of Kubernetes.
    let init = [
        "init",
        &config,
        "--skip-phases=addon",
        "--ignore-preflight-errors=all",
    ];
    let said = machine.kubeadm(&init).await?;
    ensure!(
        said.stdout.contains("initialized successfully"),
        "{}",
        said.stdout
    );
    // Not all of a host of tests is as it likes; but the runtime and its images are.
    for word in [
        " CRI]",
        " ContainerRuntimeVersion]",
        " ImagePull]",
        "sandbox image",
    ] {
        ensure!(!said.stderr.contains(word), "{}", said.stderr);
    }
    Ok(())
}

/// Has the registry serve what kubeadm will ask for; returns how it is told its configuration.
async fn prepare(machine: &Machine) -> Result<String> {
    let version = machine
        .kubeadm(&["version", "--output=short"])
        .await?
        .stdout;
    let config = machine.configure(version.trim())?;
    let config = format!("--config={}", config.display());
    let list = ["config", "images", "list", &config];
    let names = machine.kubeadm(&list).await?.stdout;
    names.lines().try_for_each(images::publish)?;
    Ok(config)
}

pub(crate) async fn node_is_ready_and_all_pods_run(machine: &Machine) -> Result<()> {
    let ready = format!("wait --for=condition=Ready --timeout=240s node/{NODE_NAME}");
    machine.kubectl(&ready).await?;
    let parts = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ];
    for part in parts {
        // The kubelet tells the API server of a static pod when it runs.
        let pod = format!("-n kube-system --timeout=240s pod/{part}-{NODE_NAME}");
        machine.kubectl(&format!("wait --for=create {pod}")).await?;
        machine
            .kubectl(&format!("wait --for=condition=Ready {pod}"))
            .await?;
    }
    let node = machine
        .kubectl(&format!("get node {NODE_NAME} -o json"))
        .await?;
    let node: Value = serde_json::from_str(&node)?;
    let runtime = &node["status"]["nodeInfo"]["containerRuntimeVersion"];
    ensure!(
        runtime
            .as_str()
            .is_some_and(|runtime| runtime.starts_with("crisp://")),
        "{runtime}"
    );
    Ok(())
}

pub(crate) async fn pod_runs_and_is_heard(machine: &Machine) -> Result<()> {
    machine
        .kubectl("wait --for=create --timeout=240s serviceaccount/default")
        .await?;
    let run = format!("run hello --image={BUSYBOX} --restart=Never --command -- echo hello");
    machine.kubectl(&run).await?;
    let ended = "wait --for=jsonpath={.status.phase}=Succeeded --timeout=240s pod/hello";
    machine.kubectl(ended).await?;
    let said = machine.kubectl("logs hello").await?;
    ensure!(said == "hello\n", "{said}");
    Ok(())
}

/// As kubeadm asks for, the kubelet is dead by then.
pub(crate) async fn reset_removes_all_pods(machine: &Machine) -> Result<()> {
    machine.kill_kubelet()?;
    let before = machine.node.pods().await?;
    ensure!(!before.is_empty(), "there are no pods");
    let socket = format!("--cri-socket={}", machine.cri_socket());
    machine.kubeadm(&["reset", "--force", &socket]).await?;
    let pods = machine.node.pods().await?;
    ensure!(pods.is_empty(), "{pods:?}");
    Ok(())
}
