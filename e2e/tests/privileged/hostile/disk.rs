//! A disk that is full: what cannot be made is refused and leaves nothing, and what is there can be
//! ended and removed, which makes room.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerState, PodSandboxState};
use crisp_e2e::catalog::{BUSYBOX, busybox_layer};
use crisp_e2e::{Entry, Filler, Image, Layer, Node, Registry, sh};
use std::fs;
use std::path::{Path, PathBuf};

/// Of the daemon's disk; busybox takes one.
const DISK_MIB: u32 = 24;

/// All files below a directory but the filler.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = crisp_e2e::leftovers::files(dir).into_iter().collect();
    found.retain(|path| !path.ends_with("filler"));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pull_on_a_full_disk_leaves_nothing_and_succeeds_when_there_is_room()
-> Result<()> {
    let large: Vec<u8> = (0..20_u32 << 18)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layer = Layer::new([Entry::file("large", large)]).gzip();
    Registry::shared().publish("test/large", "1", &Image::new(vec![busybox_layer(), layer]));
    let node = Node::start_on_small_disk(DISK_MIB, |_| ()).await?;
    let before = files(&node.root_dir());
    {
        let filler = Filler::hold(&node.root_dir(), ((DISK_MIB - 10) << 20) as usize)?;
        let refused = node.pull("registry.k8s.io/test/large:1").await.err();
        let refused = refused.context("there was room")?;
        ensure!(refused.message().contains("no space left"), "{refused}");
        ensure!(
            files(&node.root_dir()) == before,
            "{:?}",
            files(&node.root_dir())
        );
        drop(filler);
    }
    node.pull("registry.k8s.io/test/large:1").await?;
    ensure!(node.image(BUSYBOX).await?.is_some());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_full_disk_refuses_what_is_new_and_lets_go_of_what_is_there() -> Result<()> {
    let node = Node::start_on_small_disk(DISK_MIB, |_| ()).await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let running = pod.start("running", |_| ()).await?;
    let ending = pod.start("ending", |config| {
        config.command = sh("echo ready; until [ -e /dev/shm/go ]; do sleep 0.02; done; exit 7");
    });
    let ending = ending.await?;
    ending.wait_log("ready").await?;
    let removed = pod.start("removed", |_| ()).await?;
    let filler = Filler::fill(&node.root_dir())?;

    let refused = node
        .run_pod("new", |_| ())
        .await
        .err()
        .context("there was room for a record")?;
    ensure!(refused.message().contains("No space left"), "{refused}");
    ensure!(
        pod.create("new", |_| ()).await.is_err(),
        "there was room for a record"
    );
    ensure!(node.pods().await?.len() == 1 && node.containers().await?.len() == 3);
    let written = running.exec(&["sh", "-c", "echo x >/file"]).await?;
    ensure!(
        written.code != 0 && written.stderr.contains("No space left"),
        "{written:?}"
    );

    // What happens is told, and what is asked to end does.
    running.sh("touch /dev/shm/go").await?;
    ensure!(ending.wait_exit().await?.exit_code == 7);
    running.stop(1).await?;
    ensure!(running.status().await?.exit_code == 137);
    removed.remove().await?;
    pod.stop().await?;
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);

    // As soon as there is room it is on disk too.
    drop(filler);
    let record = node
        .root_dir()
        .join(format!("pods/{}/containers/{}.json", pod.id, ending.id));
    crisp_e2e::eventually("the exit is on disk", || {
        fs::read_to_string(&record).is_ok_and(|text| text.contains("\"Code\":7"))
    })
    .await?;
    node.kill()?;
    node.restart().await?;
    let status = ending.status().await?;
    ensure!(
        (status.state(), status.exit_code) == (ContainerState::ContainerExited, 7),
        "{status:?}"
    );
    node.run_pod("new", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_disk_that_containers_have_filled_is_made_room_on_by_the_kubelets_means()
-> Result<()> {
    let node = Node::start_on_small_disk(DISK_MIB, |_| ()).await?;
    let own = Image::new(vec![
        busybox_layer(),
        Layer::new([Entry::file("own", vec![7; 1 << 20])]).gzip(),
    ]);
    Registry::shared().publish("test/own", "1", &own);
    node.pull("registry.k8s.io/test/own:1").await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let greedy = pod.start("greedy", |config| {
        config.command = sh("dd if=/dev/zero of=/fill bs=64k 2>/dev/null; dd if=/dev/zero of=/more bs=1 2>/dev/null; echo full; exec sleep 1000000");
    });
    let greedy = greedy.await?;
    greedy.wait_log("full").await?;
    // An image goes without room for its index.
    node.remove_image("registry.k8s.io/test/own:1").await?;
    ensure!(node.image("registry.k8s.io/test/own:1").await?.is_none());
    let filler = Filler::fill(&node.root_dir())?;
    ensure!(node.pods().await?.len() == 1);
    pod.stop().await?;
    pod.remove().await?;
    drop(filler);
    ensure!(node.containers().await?.is_empty());
    node.run_pod("next", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    node.finish().await
}
