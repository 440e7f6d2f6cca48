//! Images that leave the node as archives, which other tools read, and the names that they have here.

use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{Entry, Image, Layer, Node, image_spec, oci_archive};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "docker.io/test/exported:1";

fn image() -> Image {
    let layer = Layer::new([
        Entry::file("exported", "it is here"),
        Entry::hard_link("again", "exported"),
        Entry::symlink("link", "exported"),
        Entry::whiteout("etc/gone"),
    ]);
    Image::new(vec![busybox_layer(), layer.gzip()]).with("Cmd", json!(["cat", "/link"]))
}

/// A node that has the image.
async fn node() -> Result<Node> {
    let node = Node::start_empty(|_| ()).await?;
    let path = node.scratch()?.join("import.tar");
    std::fs::write(&path, oci_archive(NAME, &image()))?;
    node.crisp(&["image", "import", text(&path)?]).await?;
    Ok(node)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("temporary paths are UTF-8")
}

/// What skopeo says of an image in a file.
fn skopeo(transport: &str, path: &Path) -> Result<Value> {
    let mut skopeo = Command::new("skopeo");
    let output = skopeo
        .arg("inspect")
        .arg("--config")
        .arg(format!("{transport}:{}", path.display()))
        .output()
        .context("skopeo is missing: run hack/test.sh --prepare")?;
    ensure!(output.status.success(), "{transport}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn ids(node: &Node) -> Result<Vec<String>> {
    let listed = node.crisp(&["images", "ls", "-q"]).await?.stdout;
    Ok(listed.lines().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exported_image_is_read_by_others_and_runs_after_its_way_back() -> Result<()> {
    let node = node().await?;
    node.crisp(&["image", "tag", NAME, "registry.example/other:2"])
        .await?;
    let archive = node.scratch()?.join("export.tar");
    node.crisp(&["image", "export", text(&archive)?, NAME])
        .await?;
    for transport in ["oci-archive", "docker-archive"] {
        let config = skopeo(transport, &archive)?;
        ensure!(
            config["config"]["Cmd"] == json!(["cat", "/link"]),
            "{config:#}"
        );
    }

    let listed: Value =
        serde_json::from_str(&node.crisp(&["image", "ls", "--json"]).await?.stdout)?;
    ensure!(
        listed[0]["tags"] == json!([NAME, "registry.example/other:2"]),
        "{listed:#}"
    );
    node.crisp(&["image", "rm", NAME]).await?;
    ensure!(ids(&node).await?.is_empty());

    node.crisp(&["image", "import", text(&archive)?]).await?;
    // It was exported by one of its names.
    ensure!(node.image("registry.example/other:2").await?.is_none());
    let pod = node.run_pod("exported", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.image = Some(image_spec(NAME));
            config.command.clear();
        })
        .await?;
    container.wait_exit().await?;
    ensure!(container.log()?[0].text == "it is here");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_export_to_standard_output_is_the_same_and_an_unfinished_one_leaves_no_file()
-> Result<()> {
    let node = node().await?;
    let scratch = node.scratch()?;
    let (file, piped) = (scratch.join("file.tar"), scratch.join("piped.tar"));
    node.crisp(&["image", "export", text(&file)?, NAME]).await?;
    node.crisp_with_output(&["image", "export", "-", NAME], &piped)
        .await?;
    ensure!(std::fs::read(&file)? == std::fs::read(&piped)?);

    let before = entries(&scratch)?;
    let absent = scratch.join("absent.tar");
    let refused = node
        .try_crisp(&["image", "export", text(&absent)?, NAME, "no/such:1"])
        .await?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("no/such:1"),
        "{refused:?}"
    );
    ensure!(entries(&scratch)? == before, "{:?}", entries(&scratch)?);
    // A device stays one.
    node.crisp(&["image", "export", "/dev/null", NAME]).await?;
    ensure!(!std::fs::metadata("/dev/null")?.is_file());
    node.finish().await
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    Ok(entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_names_are_given_taken_away_and_refused_when_they_are_none() -> Result<()> {
    let node = node().await?;
    let id = ids(&node).await?.pop().context("an image")?;
    for hostile in [
        "../../etc/passwd",
        "a b",
        "registry.example/UPPER:1",
        "x:1\nmore",
        "--force",
        "a@sha256:00",
        "",
    ] {
        let refused = node
            .try_crisp(&["image", "tag", "--", NAME, hostile])
            .await?;
        ensure!(refused.code != Some(0), "{hostile:?}: {refused:?}");
    }
    let by_digest = format!("docker.io/test/exported@{id}");
    let refused = node.try_crisp(&["image", "tag", NAME, &by_digest]).await?;
    ensure!(refused.stderr.contains("digest"), "{refused:?}");

    node.crisp(&["image", "tag", &id, "second:1"]).await?;
    node.crisp(&["image", "untag", NAME]).await?;
    ensure!(node.image("second:1").await?.is_some());
    ensure!(node.image(NAME).await?.is_none());
    // A container keeps what its image was made of, whatever becomes of the image.
    let pod = node.run_pod("kept", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.image = Some(image_spec("second:1"));
            config.command = ["sleep", "1000"].map(str::to_owned).into();
        })
        .await?;
    for name in image_names(&node).await? {
        node.crisp(&["image", "untag", &name]).await?;
    }
    ensure!(ids(&node).await?.is_empty());
    ensure!(container.sh("cat /again").await? == "it is here");
    node.finish().await
}

async fn image_names(node: &Node) -> Result<Vec<String>> {
    let listed: Value =
        serde_json::from_str(&node.crisp(&["image", "ls", "--json"]).await?.stdout)?;
    let names = ["tags", "digests"]
        .into_iter()
        .flat_map(|kind| listed[0][kind].as_array());
    let names = names.flatten().filter_map(Value::as_str);
    Ok(names.map(str::to_owned).collect())
}
