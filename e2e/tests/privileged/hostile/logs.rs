//! Logs that cannot be written: containers do not notice, and go on being logged when they can be.

use anyhow::{Result, ensure};
use crisp_cri_api::v1::{ContainerState, ReopenContainerLogRequest};
use crisp_e2e::{Container, Node, eventually, sh, until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::{Path, PathBuf};

/// A file system of 64 KiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let none = MsFlags::empty();
        mount(Some("e2e"), dir, Some("tmpfs"), none, Some("size=64k"))?;
        Ok(Self(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What a failed test leaves is swept with its slot.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Counts in its root, which is not the log's disk, and in its log.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i >/count; head -c 2000 /dev/zero | tr '\\0' x; sleep 0.01; done";

async fn ensure_it_counts_on(container: &Container<'_>) -> Result<()> {
    let count = async || -> Option<u64> { container.sh("cat /count").await.ok()?.parse().ok() };
    let before = until("it counts", async || count().await).await?;
    until("it counts on", async || {
        count().await.filter(|now| *now > before + 20)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_log_on_a_full_disk_drops_lines_and_goes_on_when_there_is_room() -> Result<()> {
    let node = Node::start().await?;
    let disk = SmallDisk::mount(&node.log_dir().join("pod"))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod
        .start("main", |config| config.command = sh(COUNT))
        .await?;
    let blocks_left = || statvfs(&disk.0).map_or(1, |disk| disk.blocks_available());
    eventually("the disk is full", || blocks_left() == 0).await?;
    ensure_it_counts_on(&container).await?;
    // One that is to start on a full disk starts.
    let other = pod.start("other", |_| ()).await?;
    ensure!(other.sh("echo alive").await? == "alive");
    // As the kubelet rotates: the old file goes.
    fs::remove_file(container.log_path())?;
    let reopen = ReopenContainerLogRequest {
        container_id: container.id.clone(),
    };
    node.runtime().reopen_container_log(reopen).await?;
    until("lines are logged again", async || {
        fs::read_to_string(container.log_path())
            .ok()
            .filter(|log| log.lines().count() > 2)
    })
    .await?;
    container.stop(0).await?;
    pod.remove().await?;
    drop(disk);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_log_directory_that_is_gone_holds_up_nobody() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod
        .start("main", |config| config.command = sh(COUNT))
        .await?;
    container.wait_log("3").await?;
    let dir = node.log_dir().join("pod");
    fs::remove_dir_all(&dir)?;
    ensure_it_counts_on(&container).await?;
    let reopen = ReopenContainerLogRequest {
        container_id: container.id.clone(),
    };
    let refused = node
        .runtime()
        .reopen_container_log(reopen.clone())
        .await
        .err();
    ensure!(refused.is_some(), "reopened in no directory");
    ensure_it_counts_on(&container).await?;
    fs::create_dir_all(&dir)?;
    node.runtime().reopen_container_log(reopen).await?;
    until("lines are logged again", async || {
        container.log().ok().filter(|log| log.len() > 2)
    })
    .await?;
    // A start makes the directory by itself.
    container.stop(0).await?;
    fs::remove_dir_all(&dir)?;
    let other = pod
        .start("other", |config| config.command = sh("echo here"))
        .await?;
    other.wait_log("here").await?;
    // Where the directory should be is something else: told, and nothing else is the worse for it.
    fs::remove_dir_all(&dir)?;
    fs::write(&dir, "no directory")?;
    let failing = pod.create("failing", |_| ()).await?;
    let refused = failing.start().await.err();
    ensure!(
        refused.is_some_and(|e| e.message().contains("log")),
        "started without a log"
    );
    ensure!(failing.status().await?.state() == ContainerState::ContainerExited);
    node.finish().await
}
