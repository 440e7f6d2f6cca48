//! How much a container may write, as the file system counts it.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Node, eventually};
use crisp_sys::quota;
use std::fs::{self, File};
use std::path::PathBuf;
use tonic::Code;

const DISK_MIB: u32 = 96;
const LIMIT_MIB: u64 = 16;
const MIB: u64 = 1 << 20;

async fn limited_node() -> Result<Node> {
    Node::start_on_disk_with_quotas(DISK_MIB, |config| {
        let limit = i64::try_from(LIMIT_MIB * MIB).expect("it is small");
        config.insert("container_disk_limit_bytes".to_owned(), limit.into());
    })
    .await
}

fn written_dir(node: &Node, id: &str) -> PathBuf {
    node.root_dir().join("containers").join(id)
}

/// Writes a file of so many MiB in the shell of a container.
fn write(path: &str, mib: u64) -> String {
    format!("dd if=/dev/zero of={path} bs=1M count={mib}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kernel with quotas: e2e/node-vm.sh"]
async fn privileged_writes_beyond_the_disk_limit_fail_and_others_go_on() -> Result<()> {
    let node = limited_node().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let (full, other) = (
        pod.start("full", |_| ()).await?,
        pod.start("other", |_| ()).await?,
    );
    let disk = File::open(node.root_dir())?;
    let project = quota::project(File::open(written_dir(&node, &full.id))?)?;
    let usage = || quota::usage(&disk, project);
    ensure!(
        usage()?.limit_bytes == Some(LIMIT_MIB * MIB),
        "{:?}",
        usage()
    );

    let refused = full
        .exec(&["sh", "-c", &write("/large", 2 * LIMIT_MIB)])
        .await?;
    let no_room = ["Disk quota exceeded", "No space left on device"];
    ensure!(
        refused.code != 0 && no_room.iter().any(|text| refused.stderr.contains(text)),
        "{refused:?}"
    );
    let size: u64 = full.sh("stat -c %s /large").await?.parse()?;
    ensure!(
        ((LIMIT_MIB - 1) * MIB..=LIMIT_MIB * MIB).contains(&size),
        "{size}"
    );
    ensure!(usage()?.bytes <= LIMIT_MIB * MIB, "{:?}", usage());
    other.sh(&write("/large", LIMIT_MIB - 1)).await?;

    // The limit outlives the daemon.
    node.kill()?;
    node.restart().await?;
    full.sh("rm /large").await?;
    full.sh(&write("/large", LIMIT_MIB / 2)).await?;
    let refused = full.exec(&["sh", "-c", &write("/more", LIMIT_MIB)]).await?;
    ensure!(refused.code != 0, "{refused:?}");

    full.stop(0).await?;
    full.remove().await?;
    let nothing = quota::Usage {
        bytes: 0,
        inodes: 0,
        limit_bytes: None,
    };
    eventually("nothing is left of the project", || usage() == Ok(nothing)).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kernel with quotas: e2e/node-vm.sh"]
async fn privileged_disk_limit_of_a_half_made_container_is_lifted_by_the_next_daemon() -> Result<()>
{
    let node = limited_node().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod.create("main", |_| ()).await?;
    let disk = File::open(node.root_dir())?;
    let project = quota::project(File::open(written_dir(&node, &container.id))?)?;
    // As a daemon leaves it that dies while it makes or removes one.
    let staged = node
        .root_dir()
        .join("containers/staging")
        .join(&container.id);
    node.kill()?;
    fs::rename(written_dir(&node, &container.id), staged)?;
    node.restart().await?;
    let limit = quota::usage(&disk, project)?.limit_bytes;
    ensure!(limit.is_none(), "{limit:?}");
    // Of the container no more than the record is left.
    container.remove().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_disk_limit_is_refused_on_a_file_system_without_quotas() -> Result<()> {
    let node = Node::start_with(|config| {
        config.insert("container_disk_limit_bytes".to_owned(), (1 << 30).into());
        let free = toml::toml! { free = { container_disk_limit_bytes = 0 } };
        config.insert("handlers".to_owned(), free.into());
    })
    .await?;
    let pod = node.run_pod("limited", |_| ()).await?;
    let refused = pod.create("main", |_| ()).await.err();
    let refused = refused.context("it was created")?;
    ensure!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("prjquota"),
        "{refused}"
    );
    let pod = node.run_pod_with_handler("free", "free", |_| ()).await?;
    pod.start("main", |_| ()).await?;
    node.finish().await
}
