//! What the disk has lost or changed of images, and daemons that die while images come.

use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::{BUSYBOX, NGINX, busybox_layer};
use crisp_e2e::{Entry, Image, Layer, Node, Registry, image_spec};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const NAME: &str = "registry.k8s.io/test/checked:1";

fn publish() {
    let layer = Layer::new([Entry::file("etc/checked", "as it was put there")]).gzip();
    let image = Image::new(vec![busybox_layer(), layer]);
    Registry::shared().publish("test/checked", "1", &image);
}

/// Where the daemon has unpacked a file of an image.
fn unpacked(node: &Node, file: &str) -> Result<PathBuf> {
    let layers = fs::read_dir(node.root_dir().join("layers"))?.flatten();
    let mut places = layers.map(|layer| layer.path().join("fs").join(file));
    places.find(|path| path.exists()).context("no layer has it")
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_store_is_checked_beside_its_pods_and_repaired_by_fetching_again() -> Result<()>
{
    publish();
    let node = Node::start().await?;
    node.pull(NAME).await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod
        .start("main", |config| config.image = Some(image_spec(NAME)))
        .await?;
    let whole = node.crisp(&["check", "--store"]).await?;
    ensure!(
        whole.stdout == "2 images, 2 layers, 1 container: all is as it was put there.\n",
        "{whole:?}"
    );

    // As a disk does that fails: neither size nor time tell.
    let file = unpacked(&node, "etc/checked")?;
    fs::File::options()
        .write(true)
        .open(&file)?
        .write_all_at(b"?", 3)?;
    let found = node.try_crisp(&["check", "--store"]).await?;
    ensure!(found.code == Some(1), "{found:?}");
    for text in [
        NAME,
        "etc/checked: its content is another",
        &container.id,
        "--repair",
    ] {
        ensure!(found.stdout.contains(text), "{text}: {found:?}");
    }
    let repaired = node.try_crisp(&["check", "--store", "--repair"]).await?;
    ensure!(
        repaired.code == Some(1) && repaired.stdout.contains("1 more repaired"),
        "{repaired:?}"
    );
    ensure!(container.sh("echo alive").await? == "alive");
    let next = pod
        .start("next", |config| config.image = Some(image_spec(NAME)))
        .await?;
    ensure!(next.sh("cat /etc/checked").await? == "as it was put there");
    // With the container what was damaged goes.
    container.remove().await?;
    node.crisp(&["check", "--store"]).await?;
    ensure!(!file.exists());

    node.kill()?;
    let nobody = node.try_crisp(&["check", "--store"]).await?;
    ensure!(
        nobody.code == Some(1) && nobody.stderr.contains("crisp serve"),
        "{nobody:?}"
    );
    node.restart().await?;
    node.crisp(&["check", "--store"]).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_daemon_killed_while_images_come_has_them_whole_or_not_at_all() -> Result<()> {
    let noise: Vec<u8> = (0..1_u32 << 20)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let large = Layer::new([Entry::file("noise", noise)]).gzip();
    let image = Image::new(vec![busybox_layer(), large]);
    Registry::shared().publish("test/interrupted", "1", &image);
    let names = ["registry.k8s.io/test/interrupted:1", NGINX];
    let node = Node::start_empty(|_| ()).await?;
    for round in 0..6 {
        let both = async { tokio::join!(node.pull(names[0]), node.pull(names[1])) };
        // Each round the daemon dies at another point of the work.
        let _ = tokio::time::timeout(Duration::from_millis(20 + 60 * round), both).await;
        node.kill()?;
        node.restart().await?;
        for name in names {
            if let Some(image) = node.image(name).await? {
                node.remove_image(&image.id).await?;
            }
        }
        node.audit().await?;
    }
    for name in names {
        node.pull(name).await?;
    }
    node.crisp(&["check", "--store"]).await?;
    ensure!(node.image(BUSYBOX).await?.is_none());
    node.finish().await
}
