//! A node in a pod, as kind has its nodes in containers: systemd as the container's init, crisp in it as on
//! any host, and a pod of that one.

use anyhow::{Result, ensure};
use crisp_cri_api::v1::Mount;
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{
    Container, Image, Node, allow_privileged, image_spec, oci_archive, security, tools,
    until_within,
};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How long such a node takes to boot and to start a pod, at the most, on an emulated machine.
const BOUND: Duration = Duration::from_secs(240);
const STEP: Duration = Duration::from_secs(2);

/// Where it finds what it is to run.
const FILES: &str = "/files";

/// An image and a pod of it.
fn write_files(dir: &Path) -> Result<()> {
    let image = Image::new(vec![busybox_layer()]);
    std::fs::write(
        dir.join("image.tar"),
        oci_archive("docker.io/test/inner:1", &image),
    )?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "inner" },
        "spec": { "containers": [{
            "name": "main",
            "image": "docker.io/test/inner:1",
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", "echo here is $(hostname); sleep 100000"],
        }]},
    });
    Ok(std::fs::write(dir.join("pod.yaml"), pod.to_string())?)
}

/// Waits for a script to succeed; the answer is what it prints.
async fn until_printed(container: &Container<'_>, script: &str) -> Result<String> {
    until_within(BOUND, STEP, script, async || {
        container.sh(script).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs cgroup v2 and the image of hack/node-image.sh: e2e/node-vm.sh"]
async fn privileged_node_in_a_pod_runs_pods_of_its_own() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    // hack/node-image.sh has made it.
    let archive = tools::program("node-image/node.tar").display().to_string();
    node.crisp(&["image", "import", &archive]).await?;
    let files = node.scratch()?;
    write_files(&files)?;

    let pod = node.run_pod("kind-like", allow_privileged).await?;
    let container = pod
        .start("node", |config| {
            config.image = Some(image_spec("localhost/crisp-node:latest"));
            config.command.clear();
            security(config).privileged = true;
            config.mounts.push(Mount {
                container_path: FILES.to_owned(),
                host_path: files.display().to_string(),
                readonly: true,
                ..Mount::default()
            });
        })
        .await?;

    until_printed(&container, "systemctl is-active crisp.service").await?;
    let info: Value = serde_json::from_str(&until_printed(&container, "crictl info").await?)?;
    ensure!(info["config"]["cgroupDriver"] == "systemd", "{info:#}");
    container
        .sh("ctr -n k8s.io images import /files/image.tar")
        .await?;
    container.sh("crisp pod run /files/pod.yaml").await?;
    let said = until_printed(&container, "crisp pod logs inner | grep here").await?;
    ensure!(said == "here is inner", "{said}");
    let addresses = "crisp pod exec inner -- ip -o address show dev eth0";
    let addresses = container.sh(addresses).await?;
    ensure!(addresses.contains(" inet "), "{addresses}");
    container.sh("crisp pod rm --grace 0 inner").await?;
    let left = container.sh("crictl pods -q").await?;
    ensure!(left.is_empty(), "{left}");
    node.finish().await
}
