//! What comes into a container beside its own root: images mounted as volumes, and volumes that its own
//! image declares.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::Mount;
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{
    Entry, Image, Layer, Node, Packing, Registry, image_spec, own_users, security, xattr,
};
use tonic::Code;

/// Publishes an image of files alone, as models are shipped: in the lower layer `weights/{big,old,gone}`
/// and `link`, in the upper one changes to them.
async fn pull_model(node: &Node) -> Result<String> {
    let lower = Layer::new([
        Entry::directory("weights"),
        Entry::file("weights/big", "big").owner(1000, 1000),
        Entry::file("weights/old", "old"),
        Entry::file("weights/gone", "gone"),
        Entry::directory("weights/more"),
        Entry::file("weights/more/file", "more"),
        Entry::symlink("link", "/weights"),
        Entry::symlink("outside", "/etc/hostname"),
    ]);
    let upper = Layer::new([
        Entry::file("weights/old", "new"),
        Entry::whiteout("weights/gone"),
    ]);
    let image = Image::new(vec![lower.gzip(), upper.pack(Packing::Zstd)]);
    Registry::shared().publish("test/model", "1", &image);
    Ok(node.pull("registry.k8s.io/test/model:1").await?)
}

fn image_volume(image: &str, sub_path: &str, container_path: &str) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        image: Some(image_spec(image)),
        image_sub_path: sub_path.to_owned(),
        readonly: true,
        ..Mount::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_image_volume_shows_the_merged_layers_read_only() -> Result<()> {
    let node = Node::start().await?;
    let model = pull_model(&node).await?;
    let pod = node.run_pod("model", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.mounts = vec![
                image_volume(&model, "", "/model"),
                image_volume("registry.k8s.io/test/model:1", "weights", "/weights"),
                image_volume(&model, "link/more", "/more"),
                image_volume(&model, "weights/old", "/etc/one-file"),
            ];
        })
        .await?;
    for (script, expected) in [
        ("cat /model/weights/big /model/weights/old", "bignew"),
        ("stat -c %u:%g /model/weights/big", "1000:1000"),
        ("ls /weights", "big\nmore\nold"),
        ("cat /weights/old /weights/more/file", "newmore"),
        ("cat /more/file /etc/one-file", "morenew"),
    ] {
        let shown = container.sh(script).await?;
        ensure!(shown == expected, "{script}: {shown:?}");
    }
    for path in ["/model/x", "/weights/x", "/more/x", "/etc/one-file"] {
        let write = container.exec(&["touch", path]).await?;
        ensure!(write.stderr.contains("Read-only file system"), "{write:?}");
        let mount = path.trim_end_matches("/x");
        let options = container
            .sh(&format!("grep ' {mount} ' /proc/mounts"))
            .await?;
        ensure!(options.contains("ro,nosuid,nodev"), "{options}");
    }
    let reported = container.status().await?.mounts;
    let of_image = reported
        .iter()
        .find(|mount| mount.container_path == "/weights");
    let of_image = of_image.context("the status has no image volume")?;
    ensure!(of_image.image_sub_path == "weights", "{of_image:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_image_volume_keeps_its_owners_in_a_user_namespace() -> Result<()> {
    let node = Node::start().await?;
    let model = pull_model(&node).await?;
    let pod = node.run_pod("users", own_users).await?;
    let container = pod
        .start("main", |config| {
            config.mounts = vec![
                image_volume(&model, "", "/model"),
                image_volume(&model, "weights/big", "/big"),
            ];
        })
        .await?;
    ensure!(
        container
            .sh("cat /proc/self/uid_map")
            .await?
            .contains("1000000")
    );
    for path in ["/model/weights/big", "/big"] {
        let owner = container.sh(&format!("stat -c %u:%g {path}")).await?;
        ensure!(owner == "1000:1000", "{path}: {owner}");
    }
    ensure!(container.sh("stat -c %u:%g /model/weights").await? == "0:0");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_image_volume_outlives_its_image_and_the_daemon() -> Result<()> {
    let node = Node::start().await?;
    let model = pull_model(&node).await?;
    let pod = node.run_pod("model", |_| ()).await?;
    let edit = |config: &mut crisp_cri_api::v1::ContainerConfig| {
        config.mounts = vec![image_volume(&model, "", "/model")];
    };
    let started = pod.start("started", edit).await?;
    let created = pod.create("created", edit).await?;
    node.remove_image(&model).await?;
    node.kill()?;
    node.restart().await?;
    created.start().await?;
    for container in [&started, &created] {
        ensure!(container.sh("cat /model/weights/more/file").await? == "more");
    }
    // The image is gone for everybody else, and with the last container its layers are.
    let refused = pod.create("late", edit).await.err().context("no image")?;
    ensure!(refused.code() == Code::NotFound, "{refused}");
    let layers = || -> Result<usize> {
        let entries = std::fs::read_dir(node.root_dir().join("layers"))?;
        let names = entries.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<Result<Vec<_>>>()?;
        Ok(names.iter().filter(|name| *name != "staging").count())
    };
    let before = layers()?;
    started.remove().await?;
    ensure!(layers()? == before, "layers that a container has are gone");
    created.remove().await?;
    ensure!(layers()? == before - 2, "layers that nobody has are left");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_image_volume_that_cannot_be_is_refused_by_the_kubelets_name() -> Result<()> {
    let node = Node::start().await?;
    let model = pull_model(&node).await?;
    let pod = node.run_pod("model", |_| ()).await?;
    for sub_path in ["none", "weights/gone", "weights/big/x", "outside"] {
        let refused = pod
            .create("refused", |config| {
                config.mounts = vec![image_volume(&model, sub_path, "/model")];
            })
            .await
            .err()
            .with_context(|| format!("{sub_path:?} was mounted"))?;
        ensure!(
            refused.message().starts_with("ImageVolumeMountFailed")
                && refused.message().contains(sub_path),
            "{refused}"
        );
    }
    let with_host_path = pod
        .create("refused", |config| {
            config.mounts = vec![Mount {
                host_path: "/tmp".to_owned(),
                ..image_volume(&model, "", "/model")
            }];
        })
        .await
        .err()
        .context("two sources were taken")?;
    ensure!(
        with_host_path.message().contains("host_path"),
        "{with_host_path}"
    );
    let unknown = pod
        .create("refused", |config| {
            config.mounts = vec![image_volume("registry.k8s.io/test/nosuch:1", "", "/model")];
        })
        .await
        .err()
        .context("an image that is not here was mounted")?;
    ensure!(unknown.code() == Code::NotFound, "{unknown}");
    node.finish().await
}

/// Publishes a busybox with volumes: one with content, one that the image does not have, one that a
/// link leads to, one that would be above the root, and one of the kernel's.
async fn pull_with_volumes(node: &Node) -> Result<&'static str> {
    let content = Layer::new([
        Entry::directory("data").mode(0o2750).owner(1000, 1000),
        Entry::file("data/file", "of the image")
            .owner(1000, 33)
            .mode(0o640),
        Entry::file("data/marked", "").xattr("user.mark", b"kept"),
        Entry::symlink("data/link", "/etc/hostname"),
        Entry::directory("real"),
        Entry::file("real/file", "behind a link"),
        Entry::symlink("linked", "/real"),
        Entry::symlink("escape", "/../../../../etc"),
    ]);
    let volumes = [
        "/data",
        "/fresh/one",
        "/linked",
        "/escape/kubernetes",
        "/../../../up",
        "/sys/fs/cgroup",
    ];
    let volumes: serde_json::Map<_, _> = volumes
        .map(|path| (path.to_owned(), serde_json::json!({})))
        .into_iter()
        .collect();
    let image = Image::new(vec![busybox_layer(), content.gzip()]).with("Volumes", volumes.into());
    Registry::shared().publish("test/volumes", "1", &image);
    node.pull(WITH_VOLUMES).await?;
    Ok(WITH_VOLUMES)
}

const WITH_VOLUMES: &str = "registry.k8s.io/test/volumes:1";

#[tokio::test(flavor = "multi_thread")]
async fn privileged_declared_volume_has_what_the_image_has_and_is_writable() -> Result<()> {
    let node = Node::start().await?;
    let image = pull_with_volumes(&node).await?;
    for (name, edit) in [("plain", None), ("users", Some(own_users))] {
        let pod = node
            .run_pod(name, |config| {
                if let Some(edit) = edit {
                    edit(config);
                }
            })
            .await?;
        let container = pod
            .start("main", |config| {
                config.image = Some(image_spec(image));
                security(config).readonly_rootfs = true;
            })
            .await?;
        for (script, expected) in [
            ("cat /data/file /linked/file", "of the imagebehind a link"),
            (
                "stat -c %a:%u:%g /data /data/file",
                "2750:1000:1000\n640:1000:33",
            ),
            ("readlink /data/link", "/etc/hostname"),
            ("stat -c %a:%u:%g /fresh/one", "755:0:0"),
            (
                "echo x > /data/new && echo y > /fresh/one/new && cat /data/new /fresh/one/new",
                "x\ny",
            ),
            ("echo z > /up/new && cat /up/new", "z"),
            (
                "ls -d /etc/kubernetes && touch /etc/kubernetes/x",
                "/etc/kubernetes",
            ),
            (
                "chown 1000 /fresh/one/new && stat -c %u /fresh/one/new",
                "1000",
            ),
        ] {
            let shown = container.sh(script).await?;
            ensure!(shown.ends_with(expected), "{name}: {script}: {shown:?}");
        }
        let of_root = container.exec(&["touch", "/etc/x"]).await?;
        ensure!(
            of_root.stderr.contains("Read-only file system"),
            "{of_root:?}"
        );
        // A mount of the kind that another container runtime's volumes are: not an overlay.
        let mounts = container.sh("grep ' /data ' /proc/mounts").await?;
        ensure!(!mounts.starts_with("overlay"), "{mounts}");
        let volumes = node
            .root_dir()
            .join("containers")
            .join(&container.id)
            .join("volumes");
        let marked = xattr(&volumes.join("0/marked"), "user.mark")?;
        ensure!(marked == b"kept", "{marked:?}");
        container.remove().await?;
        ensure!(!volumes.exists(), "volumes outlive their container");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_declared_volume_yields_to_a_mount() -> Result<()> {
    let node = Node::start().await?;
    let image = pull_with_volumes(&node).await?;
    let scratch = node.scratch()?;
    std::fs::write(scratch.join("file"), "of the host")?;
    let pod = node.run_pod("mount", |_| ()).await?;
    let start = async |name: &str| {
        pod.start(name, |config| {
            config.image = Some(image_spec(image));
            config.mounts = vec![Mount {
                host_path: scratch.display().to_string(),
                container_path: "/data".to_owned(),
                ..Mount::default()
            }];
        })
        .await
    };
    let container = start("main").await?;
    ensure!(container.sh("cat /data/file").await? == "of the host");
    // Each container has volumes of its own.
    container.sh("echo mine > /fresh/one/file").await?;
    let other = start("other").await?;
    ensure!(other.sh("ls /fresh/one").await?.is_empty());
    node.finish().await
}
