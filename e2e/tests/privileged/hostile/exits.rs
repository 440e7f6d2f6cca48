//! Processes that end all at once: no exit is lost, and nobody stays as a zombie.

use anyhow::{Result, ensure};
use crisp_cri_api::v1::NamespaceMode;
use crisp_e2e::{Node, Process, eventually, pid_mode, sh};

/// Containers of one pod.
const CONTAINERS: i32 = 60;

fn zombies() -> usize {
    let is_ours = |process: &Process| {
        let name = process.status("Name").unwrap_or_default();
        let state = process.status("State").unwrap_or_default();
        state.starts_with('Z') && ["true", "sh", "busybox"].contains(&name.as_str())
    };
    Process::all()
        .iter()
        .filter(|process| is_ours(process))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_containers_that_end_at_once_all_keep_their_exit_codes() -> Result<()> {
    let node = Node::start().await?;
    let mut pods = Vec::new();
    for name in ["one", "two", "three"] {
        pods.push(node.run_pod(name, |_| ()).await?);
    }
    let ends = async |pod: &crisp_e2e::Pod<'_>| -> Result<()> {
        for code in 0..CONTAINERS {
            let name = format!("ends-{code}");
            let exit = |config: &mut crisp_cri_api::v1::ContainerConfig| {
                config.command = sh(&format!("exit {code}"));
            };
            let container = pod.start(&name, exit).await?;
            let status = container.wait_exit().await?;
            ensure!(status.exit_code == code, "{name}: {status:?}");
            ensure!(status.started_at <= status.finished_at, "{status:?}");
        }
        Ok(())
    };
    let (one, two, three) = tokio::join!(ends(&pods[0]), ends(&pods[1]), ends(&pods[2]));
    one.and(two).and(three)?;
    // What was told once is told by the next daemon too.
    node.kill()?;
    node.restart().await?;
    for container in node.containers().await? {
        let id = container.id.clone();
        let name = container.metadata.unwrap_or_default().name;
        let request = crisp_cri_api::v1::ContainerStatusRequest {
            container_id: id,
            verbose: false,
        };
        let answer = node.runtime().container_status(request).await?.into_inner();
        let code = answer.status.unwrap_or_default().exit_code;
        ensure!(name == format!("ends-{code}"), "{name} ended with {code}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_ten_thousand_orphans_that_end_leave_no_zombie() -> Result<()> {
    let node = Node::start().await?;
    // The inner shells end before their children, which others have to reap: the container's first
    // process, the pod's, or the shim. They are forks alone, of which an emulated machine makes many more.
    let script =
        "i=0; while [ $i -lt 3400 ]; do ( : & ); i=$((i+1)); done; echo done; exec sleep 1000000";
    let modes = [
        NamespaceMode::Container,
        NamespaceMode::Pod,
        NamespaceMode::Node,
    ];
    let mut containers = Vec::new();
    for mode in modes {
        let pod = node
            .run_pod(&format!("{mode:?}").to_lowercase(), pid_mode(mode))
            .await?;
        // Where the first process is PID 1, it is one that reaps: a shell with something left to do.
        let command = format!("({script}); exit 1");
        containers.push(
            pod.start("main", |config| config.command = sh(&command))
                .await?,
        );
    }
    for container in &containers {
        container.wait_log("done").await?;
        ensure!(container.sh("echo alive").await? == "alive");
    }
    eventually("no zombie is left", || zombies() == 0).await?;
    for container in &containers {
        container.stop(0).await?;
        ensure!(container.status().await?.exit_code == 137);
    }
    node.finish().await
}
