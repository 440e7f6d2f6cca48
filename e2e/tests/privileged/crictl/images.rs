//! Images: pulled with and without credentials, listed, inspected, removed.

use super::{json, line};
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::{BUSYBOX, NGINX, busybox_layer};
use crisp_e2e::{Image, Node, Registry};

async fn names(node: &Node, options: &[&str]) -> Result<Vec<String>> {
    let listed = json(node, &[&["images", "-o", "json"], options].concat()).await?;
    let images = listed["images"].as_array().context("no list")?;
    let tags = images.iter().flat_map(|image| image["repoTags"].as_array());
    let mut names: Vec<_> = tags
        .flatten()
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_images_are_listed_by_every_filter() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    node.crictl(&["pull", BUSYBOX]).await?;
    let printed = line(&node, &["pull", "--annotation=wanted=yes", NGINX]).await?;
    ensure!(
        printed.contains("Image is up to date for sha256:"),
        "{printed}"
    );
    ensure!(names(&node, &[]).await? == [BUSYBOX, NGINX]);
    ensure!(names(&node, &[BUSYBOX]).await? == [BUSYBOX]);
    ensure!(names(&node, &["--filter=reference=nginx"]).await? == [NGINX]);
    ensure!(names(&node, &["--filter=dangling=true"]).await?.is_empty());
    let table = node
        .crictl(&["images", "--digests", "--pinned"])
        .await?
        .stdout;
    for text in ["IMAGE ID", "DIGEST", "PINNED", "library/nginx", "1.22"] {
        ensure!(table.contains(text), "no {text}: {table}");
    }
    let ids = node.crictl(&["images", "-q", "--no-trunc"]).await?.stdout;
    ensure!(ids.lines().all(|id| id.starts_with("sha256:")), "{ids}");
    let verbose = node.crictl(&["images", "-v"]).await?.stdout;
    ensure!(verbose.contains("RepoDigests:"), "{verbose}");

    let inspected = json(&node, &["inspecti", NGINX]).await?;
    ensure!(
        inspected["status"]["repoTags"] == json!([NGINX]),
        "{inspected}"
    );
    ensure!(
        inspected["info"].to_string().contains("SIGQUIT"),
        "{inspected}"
    );
    let disk = json(&node, &["imagefsinfo"]).await?;
    let of_images = &disk["status"]["imageFilesystems"][0];
    ensure!(
        of_images["usedBytes"]["value"]
            .as_str()
            .and_then(|bytes| bytes.parse().ok())
            .is_some_and(|bytes: u64| bytes > 1_000_000),
        "{disk}"
    );
    ensure!(disk["status"]["containerFilesystems"].is_array(), "{disk}");
    let absent = node.try_crictl(&["inspecti", "no/such:1"]).await?;
    ensure!(absent.code != Some(0), "{absent:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_rmi_removes_by_name_unused_ones_or_all() -> Result<()> {
    let other = Image::new(vec![busybox_layer()]).with("Cmd", json!(["other"]));
    Registry::shared().publish("test/rmi-other", "1", &other);
    let name = "registry.k8s.io/test/rmi-other:1";
    let node = Node::start().await?;
    node.crictl(&["pull", NGINX]).await?;
    node.crictl(&["pull", name]).await?;
    let printed = line(&node, &["rmi", name]).await?;
    ensure!(printed == format!("Deleted: {name}"), "{printed}");
    ensure!(names(&node, &[]).await? == [BUSYBOX, NGINX]);
    let pod = node.run_pod("user", |_| ()).await?;
    pod.start("main", |_| ()).await?;
    node.crictl(&["rmi", "--prune"]).await?;
    ensure!(
        names(&node, &[]).await? == [BUSYBOX],
        "a container runs busybox"
    );
    pod.remove().await?;
    node.crictl(&["rmi", "--all"]).await?;
    ensure!(names(&node, &[]).await?.is_empty());
    let absent = node.try_crictl(&["rmi", name]).await?;
    ensure!(absent.code != Some(0), "{absent:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_pulls_with_the_credentials_that_it_is_given() -> Result<()> {
    let registry = Registry::private();
    let node = Node::start_empty(|_| ()).await?;
    // Under its own name, since mirrors are not given the credentials.
    let host = registry.address().to_string();
    registry.serve_as(&host, &node.certs_dir())?;
    let image = format!("{host}/library/busybox:1.35");
    let image = image.as_str();
    for wrong in [
        &["pull", image][..],
        &["pull", "--creds=someone:else", image],
    ] {
        let refused = node.try_crictl(wrong).await?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("PermissionDenied"),
            "{refused:?}"
        );
    }
    let [credentials, encoded] = Registry::CREDENTIALS;
    for right in [
        format!("--creds={credentials}"),
        format!("--auth={encoded}"),
    ] {
        node.crictl(&["pull", &right, image]).await?;
        node.crictl(&["rmi", image]).await?;
    }
    let log = std::fs::read_to_string(node.log_path())?;
    ensure!(
        !log.contains(credentials) && !log.contains(encoded),
        "the log tells the credentials"
    );
    node.finish().await
}
