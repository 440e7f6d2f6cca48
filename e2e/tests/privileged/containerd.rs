//! crisp under the names of containerd's programs, as kind and minikube call them.

use anyhow::{Result, ensure};
use crisp_e2e::{Entry, Image, Layer, Node, Output, oci_archive};
use std::path::Path;

const NAME: &str = "docker.io/test/loaded:1";

async fn ctr(node: &Node, line: &str, input: Option<&Path>) -> Result<Output> {
    let arguments: Vec<&str> = line.split(' ').collect();
    node.as_containerd("ctr", &arguments, input).await
}

async fn done(node: &Node, line: &str, input: Option<&Path>) -> Result<String> {
    let output = ctr(node, line, input).await?;
    ensure!(output.code == Some(0), "ctr {line}: {output:?}");
    Ok(output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_ctr_does_what_kind_and_minikube_call() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let archive = node.scratch()?.join("loaded.tar");
    let image = Image::new(vec![Layer::new([Entry::file("loaded", "")]).gzip()]);
    std::fs::write(&archive, oci_archive(NAME, &image))?;
    let path = archive.display();

    // kind load
    let import =
        "--namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -";
    ensure!(done(&node, import, Some(&archive)).await?.contains(NAME));
    let id = node.image(NAME).await?.expect("it was imported").id;
    let tag = format!("--namespace=k8s.io images tag --force {id} docker.io/test/retagged:1");
    done(&node, &tag, None).await?;
    let names = done(&node, "--namespace=k8s.io images list -q", None).await?;
    ensure!(
        names
            .lines()
            .any(|name| name == "docker.io/test/retagged:1"),
        "{names}"
    );
    done(&node, "info", None).await?;

    // minikube image load, ls, save, tag
    done(&node, &format!("-n=k8s.io images import {path}"), None).await?;
    let listed = done(&node, &format!("-n=k8s.io images ls name=={NAME}"), None).await?;
    ensure!(listed.contains(NAME) && listed.contains(&id), "{listed}");
    ensure!(!listed.contains("retagged"), "{listed}");
    done(
        &node,
        "-n=k8s.io images tag docker.io/test/loaded:1 docker.io/test/third:1",
        None,
    )
    .await?;
    let saved = node.scratch()?.join("saved.tar");
    let export = format!("-n=k8s.io images export {} {NAME}", saved.display());
    done(&node, &export, None).await?;
    done(
        &node,
        "-n k8s.io images delete docker.io/test/third:1",
        None,
    )
    .await?;
    ensure!(node.image("docker.io/test/third:1").await?.is_none());
    node.remove_image(NAME).await?;
    done(
        &node,
        &format!("-n=k8s.io images import {}", saved.display()),
        None,
    )
    .await?;
    ensure!(node.image(NAME).await?.is_some());

    for (line, told) in [
        ("-n k8s.io tasks ls", "tasks"),
        ("-n k8s.io images push x:1", "push"),
        ("-n other images ls", "other"),
        ("-n k8s.io images import --snapshotter=native -", "native"),
        (
            "-n k8s.io images import --platform=linux/none -",
            "linux/none",
        ),
        ("-n k8s.io images tag no/such:1 x:1", "no/such"),
    ] {
        let refused = ctr(&node, line, None).await?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains(told),
            "{line}: {refused:?}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_containerd_tells_its_version_and_snapshotter() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let version = node
        .as_containerd("containerd", &["--version"], None)
        .await?
        .stdout;
    let words: Vec<&str> = version.split(' ').collect();
    ensure!(
        words.len() >= 4 && words[0] == "containerd" && words[2].starts_with('v'),
        "{version}"
    );
    let config = node
        .as_containerd("containerd", &["config", "dump"], None)
        .await?
        .stdout;
    let config: toml::Table = config.parse()?;
    ensure!(config["version"].as_integer() == Some(3), "{config}");
    let images = &config["plugins"]["io.containerd.cri.v1.images"];
    ensure!(
        images["snapshotter"].as_str() == Some("overlayfs"),
        "{config}"
    );
    node.finish().await
}
