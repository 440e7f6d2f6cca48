//! What has no record any more: it is ended and removed, and nothing else is.

use anyhow::{Result, ensure};
use crisp_cri_api::v1::ContainerState;
use crisp_e2e::{Container, Node, Pod, Process, eventually, until, with_host_port};
use std::fs::{self, File};

/// A pod with a host port and a container, which nobody will know of.
async fn doomed(node: &Node) -> Result<(Pod<'_>, Container<'_>, [Process; 2])> {
    let pod = node.run_pod("doomed", with_host_port(node)).await?;
    let container = pod.start("main", |_| ()).await?;
    let processes = [container.process().await?, node.shim(&pod.id)?];
    Ok((pod, container, processes))
}

/// Nothing of the pod is left, its name and all else that was its own is free, and a neighbour lives on.
async fn is_gone(
    node: &Node,
    doomed: &Pod<'_>,
    processes: [Process; 2],
    neighbour: &Container<'_>,
) -> Result<()> {
    ensure!(doomed.status().await.is_err(), "it is known");
    ensure!(!processes.iter().any(|process| process.runs()));
    // Plugins may be so slow that the daemon serves before.
    eventually("its namespace is gone", || !doomed.netns().exists()).await?;
    node.audit_records().await?;
    ensure!(neighbour.sh("echo alive").await? == "alive");
    let config = doomed.config.clone();
    let again = node.run_pod("doomed", |new| *new = config).await?;
    ensure!(again.start("main", |_| ()).await?.sh("echo anew").await? == "anew");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_record_is_torn_is_taken_down() -> Result<()> {
    let node = Node::start().await?;
    let neighbour = node.run_pod("neighbour", |_| ()).await?;
    let neighbour = neighbour.start("main", |_| ()).await?;
    let (pod, _, processes) = doomed(&node).await?;
    node.kill()?;
    let record = node.pod_record(&pod.id);
    let text = fs::read(&record)?;
    fs::write(&record, &text[..text.len() / 2])?;
    node.restart().await?;
    is_gone(&node, &pod, processes, &neighbour).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_directories_were_removed_is_taken_down() -> Result<()> {
    let node = Node::start().await?;
    let neighbour = node.run_pod("neighbour", |_| ()).await?;
    let neighbour = neighbour.start("main", |_| ()).await?;
    let (pod, _, processes) = doomed(&node).await?;
    node.kill()?;
    fs::remove_dir_all(node.root_dir().join("pods").join(&pod.id))?;
    fs::remove_dir_all(node.run_dir().join("pods").join(&pod.id))?;
    // The command line of its shim is what still tells of it.
    node.restart().await?;
    is_gone(&node, &pod, processes, &neighbour).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_without_record_and_shim_is_taken_down() -> Result<()> {
    let node = Node::start().await?;
    let neighbour = node.run_pod("neighbour", |_| ()).await?;
    let neighbour = neighbour.start("main", |_| ()).await?;
    let (pod, _, processes) = doomed(&node).await?;
    node.kill()?;
    fs::write(node.pod_record(&pod.id), "")?;
    processes[1].kill();
    node.restart().await?;
    is_gone(&node, &pod, processes, &neighbour).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_without_record_gives_back_what_plugins_gave_it() -> Result<()> {
    let node = Node::start().await?;
    node.configure_cni(&node.cni_network(&[]))?;
    let neighbour = node.run_pod("neighbour", |_| ()).await?;
    let neighbour = neighbour.start("main", |_| ()).await?;
    let (pod, _, processes) = doomed(&node).await?;
    let before = node.cni_addresses().len();
    node.kill()?;
    fs::write(node.pod_record(&pod.id), "{}")?;
    node.restart().await?;
    // Plugins may be so slow that the daemon serves before.
    let given_back = || node.cni_addresses().len() == before / 2;
    eventually("what it had is given back", given_back).await?;
    is_gone(&node, &pod, processes, &neighbour).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_whose_record_is_torn_is_removed_from_its_pod() -> Result<()> {
    let node = Node::start().await?;
    let (pod, container, [process, shim]) = doomed(&node).await?;
    let neighbour = pod.start("neighbour", |_| ()).await?;
    let created = pod.create("created", |_| ()).await?;
    node.kill()?;
    for container in [&container, &created] {
        fs::write(node.container_record(&pod.id, &container.id), "{")?;
    }
    node.restart().await?;
    let known = node.containers().await?;
    ensure!(known.len() == 1 && known[0].id == neighbour.id, "{known:?}");
    ensure!(!process.runs() && shim.runs());
    node.audit_records().await?;
    ensure!(neighbour.sh("echo alive").await? == "alive");
    for name in ["main", "created"] {
        let again = pod.start(name, |_| ()).await?;
        ensure!(again.status().await?.state() == ContainerState::ContainerRunning);
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_namespace_that_may_be_another_daemons_is_named_and_stays() -> Result<()> {
    let node = Node::start().await?;
    let name = format!("crisp-{}", "5".repeat(64));
    let file = node.netns_dir().join(&name);
    node.run_pod("any", |_| ()).await?;
    File::create(&file)?;
    node.kill()?;
    node.restart().await?;
    ensure!(file.exists());
    until("it is named", async || {
        node.log().contains(&name).then_some(())
    })
    .await?;
    fs::remove_file(file)?;
    node.finish().await
}
