//! Images from files, as `docker save` and OCI tools write them.

use anyhow::{Result, ensure};
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{Entry, Image, Layer, Node, docker_archive, image_spec, oci_archive};
use serde_json::json;

fn image(text: &str) -> Image {
    let layer = Layer::new([Entry::file("imported", text)]);
    Image::new(vec![busybox_layer(), layer.gzip()]).with("Cmd", json!(["cat", "/imported"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_archives_of_both_kinds_are_imported_and_run() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let archives = [
        ("oci", oci_archive("docker.io/test/oci:1", &image("oci"))),
        (
            "docker",
            docker_archive("docker.io/test/docker:1", &image("docker")),
        ),
    ];
    for (kind, archive) in archives {
        let path = node.scratch()?.join(format!("{kind}.tar"));
        std::fs::write(&path, archive)?;
        let imported = node
            .crisp(&["image", "import", &path.display().to_string()])
            .await?;
        let name = format!("docker.io/test/{kind}:1");
        ensure!(
            node.image(&name).await?.is_some(),
            "{name} is unknown after {imported:?}"
        );
        let pod = node.run_pod(kind, |_| ()).await?;
        let container = pod
            .start("main", |config| {
                config.image = Some(image_spec(&name));
                config.command.clear();
            })
            .await?;
        container.wait_exit().await?;
        ensure!(container.log()?[0].text == kind);
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_archive_is_imported_from_standard_input() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let path = node.scratch()?.join("piped.tar");
    std::fs::write(
        &path,
        oci_archive("docker.io/test/piped:1", &image("piped")),
    )?;
    node.crisp_with_input(&["image", "import", "-"], &path)
        .await?;
    ensure!(node.image("docker.io/test/piped:1").await?.is_some());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_file_that_is_no_archive_is_refused_and_leaves_nothing() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let whole = oci_archive("docker.io/test/broken:1", &image("broken"));
    let cases = [
        ("noise", b"no archive".repeat(100)),
        ("empty", Vec::new()),
        ("cut", whole[..whole.len() / 2].to_vec()),
    ];
    for (name, bytes) in cases {
        let path = node.scratch()?.join(name);
        std::fs::write(&path, bytes)?;
        let path = path.display().to_string();
        let refused = node.try_crisp(&["image", "import", &path]).await?;
        ensure!(
            refused.code != Some(0) && !refused.stderr.is_empty(),
            "{name}: {refused:?}"
        );
    }
    ensure!(node.image("docker.io/test/broken:1").await?.is_none());
    node.finish().await
}
