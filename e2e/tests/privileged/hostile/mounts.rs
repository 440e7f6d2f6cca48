//! File systems of the host that do not answer, as that of a dead NFS server does.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{
    ContainerConfig, ContainerState, Device, ImageFsInfoRequest, ListContainerStatsRequest, Mount,
};
use crisp_e2e::{Container, Fuse, Node, Pod, Process, oci_handlers, sh, until};
use std::path::Path;
use tonic::{Code, Status};

/// A container with a directory of the host at /mnt.
pub(super) fn mounting(host: &Path) -> impl Fn(&mut ContainerConfig) + use<> {
    let mount = Mount {
        container_path: "/mnt".to_owned(),
        host_path: host.display().to_string(),
        ..Mount::default()
    };
    move |config| config.mounts.push(mount.clone())
}

/// What a client asks all the time, and other pods' lives.
async fn ensure_all_else_goes_on(node: &Node, name: &str) -> Result<()> {
    let pod = node.run_pod(name, |_| ()).await?;
    let other = pod.start("other", |_| ()).await?;
    ensure!(other.sh("echo alive").await? == "alive");
    let stats = ListContainerStatsRequest::default();
    let stats = node.runtime().list_container_stats(stats).await?;
    let stats = stats.into_inner().stats;
    ensure!(
        stats
            .iter()
            .any(|s| s.attributes.as_ref().is_some_and(|a| a.id == other.id))
    );
    node.images().image_fs_info(ImageFsInfoRequest {}).await?;
    ensure!(!node.pods().await?.is_empty() && !node.containers().await?.is_empty());
    pod.stop().await?;
    Ok(pod.remove().await?)
}

fn error<T>(result: Result<T, Status>) -> Result<Status> {
    result.err().context("it did not fail")
}

/// As the kubelet does.
async fn create_again_and_again<'a>(pod: &Pod<'a>, host: &Path, times: usize) -> Result<()> {
    for _ in 0..times {
        let refused = error(pod.create("main", mounting(host)).await)?;
        ensure!(refused.code() == Code::DeadlineExceeded, "{refused}");
        let path = host.display().to_string();
        ensure!(refused.message().contains(&path), "{refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mount_that_hangs_is_refused_by_its_path_and_holds_up_nobody() -> Result<()> {
    let node = Node::start().await?;
    let dead = Fuse::mount(&node.scratch()?.join("dead"))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    dead.hang();
    create_again_and_again(&pod, dead.dir(), 1).await?;
    let daemon = Process(node.daemon_pid().context("no daemon")?.try_into()?);
    let threads = daemon.threads()?;
    create_again_and_again(&pod, dead.dir(), 40).await?;
    ensure!(
        daemon.threads()? < threads + 20,
        "each attempt holds a thread: {} became {}",
        threads,
        daemon.threads()?
    );
    ensure!(node.containers().await?.is_empty(), "a failed one is left");
    ensure_all_else_goes_on(&node, "other").await?;
    // When the server is back the same request succeeds.
    dead.recover();
    let container = until("the mount is taken", async || {
        pod.create("main", mounting(dead.dir())).await.ok()
    })
    .await?;
    container.start().await?;
    ensure!(container.sh("cat /mnt/file").await? == "answered");
    drop(dead);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_start_on_a_mount_that_hangs_is_given_up() -> Result<()> {
    let node = Node::start().await?;
    let dead = Fuse::mount(&node.scratch()?.join("dead"))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let neighbour = pod.start("neighbour", |_| ()).await?;
    let container = pod
        .create("main", |config| {
            mounting(&dead.dir().join("dir"))(config);
            config.command = sh("echo started; sleep 7650201");
        })
        .await?;
    dead.hang();
    let (refused, going_on) = tokio::join!(container.start(), async {
        ensure!(neighbour.sh("echo alive").await? == "alive");
        ensure_all_else_goes_on(&node, "other").await
    });
    going_on?;
    let refused = error(refused)?;
    let status = container.status().await?;
    ensure!(
        status.state() == ContainerState::ContainerExited && status.reason == "StartError",
        "{refused}: {status:?}"
    );
    ensure!(status.message.contains("did not answer"), "{status:?}");
    container.remove().await?;
    // What is told as failed does not start when the server is back.
    dead.recover();
    let mut processes = Process::all();
    processes.retain(|process| process.command_line().contains("7650201"));
    ensure!(processes.is_empty(), "{processes:?}");
    let again = pod
        .start("again", mounting(&dead.dir().join("dir")))
        .await?;
    ensure!(again.sh("echo started").await? == "started");
    drop(dead);
    node.finish().await
}

/// Starts a container on a file system that has begun to hang, under a runtime that is to forget it.
async fn ensure_forgotten_by(node: &Node, handler: &str, dead: &Fuse) -> Result<()> {
    let pod = node.run_pod_with_handler(handler, handler, |_| ()).await?;
    let dir = dead.dir().join("dir");
    let container = pod.create("main", mounting(&dir)).await?;
    dead.hang();
    error(container.start().await)?;
    // What waits for the file system ends when that answers.
    dead.recover();
    let state = node.run_dir().join("pods").join(&pod.id).join("oci");
    until("the runtime has forgotten it", async || {
        let mut known = std::fs::read_dir(&state).ok()?;
        known.next().is_none().then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_start_that_is_given_up_is_forgotten_by_its_runtime() -> Result<()> {
    let node = Node::start_with(|config| {
        config.insert("handlers".to_owned(), oci_handlers().into());
    })
    .await?;
    let scratch = node.scratch()?;
    let [for_runc, for_crun] = ["runc", "crun"].map(|name| Fuse::mount(&scratch.join(name)));
    let (for_runc, for_crun) = (for_runc?, for_crun?);
    let (runc, crun) = tokio::join!(
        ensure_forgotten_by(&node, "runc", &for_runc),
        ensure_forgotten_by(&node, "crun", &for_crun)
    );
    runc.and(crun)?;
    drop((for_runc, for_crun));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_device_and_log_directory_that_hang_are_refused_by_their_paths() -> Result<()> {
    let node = Node::start().await?;
    let dead = Fuse::mount(&node.scratch()?.join("dead"))?;
    let (device, logs) = (dead.dir().join("device"), dead.dir().join("dir"));
    let pod = node
        .run_pod("pod", |config| {
            config.log_directory = logs.display().to_string();
        })
        .await?;
    let container = pod.create("main", |_| ()).await?;
    dead.hang();
    let refused = error(container.start().await)?;
    ensure!(refused.code() == Code::DeadlineExceeded, "{refused}");
    let path = logs.display().to_string();
    ensure!(refused.message().contains(&path), "{refused}");
    let daemon = Process(node.daemon_pid().context("no daemon")?.try_into()?);
    let mut threads = usize::MAX;
    for attempt in 0..40 {
        let refused = pod.create("other", |config| {
            config.devices.push(Device {
                host_path: device.display().to_string(),
                container_path: "/dev/device".to_owned(),
                permissions: String::new(),
            });
        });
        let refused = error(refused.await)?;
        ensure!(refused.code() == Code::DeadlineExceeded, "{refused}");
        let path = device.display().to_string();
        ensure!(refused.message().contains(&path), "{refused}");
        if attempt == 0 {
            threads = daemon.threads()? + 20;
        }
    }
    ensure!(daemon.threads()? < threads, "each attempt holds a thread");
    ensure_all_else_goes_on(&node, "other").await?;
    dead.recover();
    drop(dead);
    node.finish().await
}

/// Its exit, which it is not told of before the file system has answered.
async fn ensure_stuck(container: &Container<'_>, process: Process) -> Result<()> {
    until("the process waits for the file system", async || {
        process
            .status("State")
            .filter(|state| state.starts_with(['D', 'S']))
    })
    .await?;
    let refused = error(container.stop(0).await)?;
    ensure!(refused.code() == Code::DeadlineExceeded, "{refused}");
    ensure!(refused.message().contains(&container.id), "{refused}");
    let state = process.status("State").context("it has ended")?;
    ensure!(state.starts_with('D'), "{state}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_process_that_cannot_be_killed_is_told_and_ends_when_it_can() -> Result<()> {
    let node = Node::start().await?;
    let dead = Fuse::mount(&node.scratch()?.join("dead"))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            mounting(dead.dir())(config);
            config.command =
                sh("echo ready; until [ -e /go ]; do sleep 0.02; done; exec cat /mnt/file");
        })
        .await?;
    container.wait_log("ready").await?;
    let process = container.process().await?;
    dead.hang();
    container.let_go("/go").await?;
    until("it reads", async || {
        process.command_line().starts_with("cat").then_some(())
    })
    .await?;
    let (stuck, going_on) = tokio::join!(
        ensure_stuck(&container, process),
        ensure_all_else_goes_on(&node, "other")
    );
    stuck.and(going_on)?;
    ensure!(container.status().await?.state() == ContainerState::ContainerRunning);
    // A new daemon has the same trouble, and the same answers.
    node.kill()?;
    node.restart().await?;
    ensure_all_else_goes_on(&node, "another").await?;
    dead.recover();
    ensure!(container.wait_exit().await?.exit_code == 137);
    container.remove().await?;
    drop(dead);
    node.finish().await
}
