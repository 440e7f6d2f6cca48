//! Directories of the host in a container.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{Mount, MountPropagation};
use crisp_e2e::{Node, allow_privileged, security};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::{Path, PathBuf};

fn bind(host_path: &Path, container_path: &str) -> Mount {
    Mount {
        host_path: host_path.display().to_string(),
        container_path: container_path.to_owned(),
        ..Mount::default()
    }
}

/// A mount of the host, gone when dropped.
struct HostMount(PathBuf);

impl HostMount {
    fn tmpfs(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        mount(
            Some("none"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        Ok(Self(path))
    }

    /// One whose mounts show on both sides of a bind mount of it.
    fn shared(path: PathBuf) -> Result<Self> {
        let made = Self::tmpfs(path)?;
        mount(
            None::<&str>,
            &made.0,
            None::<&str>,
            MsFlags::MS_SHARED,
            None::<&str>,
        )?;
        Ok(made)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mounts_are_writable_or_read_only() -> Result<()> {
    let node = Node::start().await?;
    let scratch = node.scratch()?;
    for name in ["rw", "ro"] {
        fs::create_dir(scratch.join(name))?;
        fs::write(scratch.join(name).join("file"), name)?;
    }
    let pod = node.run_pod("mounts", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            let read_only = Mount {
                readonly: true,
                ..bind(&scratch.join("ro"), "/mnt/ro")
            };
            config.mounts = vec![
                bind(&scratch.join("rw"), "/mnt/rw"),
                read_only,
                bind(&scratch.join("ro/file"), "/etc/one-file"),
                // A directory of the host that is not there is made.
                bind(&scratch.join("new/dir"), "/mnt/new"),
            ];
        })
        .await?;
    ensure!(
        container
            .sh("cat /mnt/rw/file /mnt/ro/file /etc/one-file")
            .await?
            == "rwroro"
    );
    container
        .sh("echo back > /mnt/rw/back && echo new > /mnt/new/file")
        .await?;
    ensure!(fs::read_to_string(scratch.join("rw/back"))? == "back\n");
    ensure!(fs::read_to_string(scratch.join("new/dir/file"))? == "new\n");
    let write = container.exec(&["touch", "/mnt/ro/x"]).await?;
    ensure!(write.stderr.contains("Read-only file system"), "{write:?}");
    let reported = container.status().await?.mounts;
    ensure!(
        reported
            .iter()
            .any(|mount| mount.container_path == "/mnt/ro" && mount.readonly),
        "{reported:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mount_over_a_mount_keeps_their_order() -> Result<()> {
    let node = Node::start().await?;
    let scratch = node.scratch()?;
    fs::create_dir_all(scratch.join("outer/inner"))?;
    fs::create_dir_all(scratch.join("other"))?;
    fs::write(scratch.join("other/file"), "other")?;
    let pod = node.run_pod("mounts", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            // The inner one first: depth decides, not the order of the list.
            config.mounts = vec![
                bind(&scratch.join("other"), "/mnt/inner"),
                bind(&scratch.join("outer"), "/mnt"),
            ];
        })
        .await?;
    ensure!(container.sh("cat /mnt/inner/file").await? == "other");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mount_propagation_is_as_asked() -> Result<()> {
    let node = Node::start().await?;
    let shared = HostMount::shared(node.scratch()?.join("shared"))?;
    for name in ["later", "from-inside"] {
        fs::create_dir(shared.0.join(name))?;
    }
    let pod = node.run_pod("propagation", allow_privileged).await?;
    let start = async |name: &str, propagation: MountPropagation| {
        pod.start(name, |config| {
            security(config).privileged = true;
            let mount = Mount {
                propagation: propagation.into(),
                ..bind(&shared.0, "/mnt")
            };
            config.mounts.push(mount);
        })
        .await
    };
    let private = start("private", MountPropagation::PropagationPrivate).await?;
    let slave = start("slave", MountPropagation::PropagationHostToContainer).await?;
    let both = start("both", MountPropagation::PropagationBidirectional).await?;

    let later = HostMount::tmpfs(shared.0.join("later"))?;
    fs::write(later.0.join("file"), "later")?;
    ensure!(private.exec(&["cat", "/mnt/later/file"]).await?.code == 1);
    ensure!(slave.sh("cat /mnt/later/file").await? == "later");
    ensure!(both.sh("cat /mnt/later/file").await? == "later");

    slave
        .sh("mount -t tmpfs none /mnt/from-inside && touch /mnt/from-inside/slave")
        .await?;
    ensure!(!shared.0.join("from-inside/slave").exists());
    both.sh("mount -t tmpfs none /mnt/from-inside && touch /mnt/from-inside/both")
        .await?;
    ensure!(shared.0.join("from-inside/both").exists());
    both.sh("umount /mnt/from-inside").await?;

    let unshared = HostMount::tmpfs(node.scratch()?.join("unshared"))?;
    mount(
        None::<&str>,
        &unshared.0,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    let refused = pod
        .start("refused", |config| {
            security(config).privileged = true;
            let mount = Mount {
                propagation: MountPropagation::PropagationBidirectional.into(),
                ..bind(&unshared.0, "/mnt")
            };
            config.mounts.push(mount);
        })
        .await;
    let error = refused
        .err()
        .context("a mount that is not shared cannot propagate")?;
    ensure!(error.message().contains("unshared"), "{error}");
    drop((later, unshared, shared));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_recursive_read_only_reaches_mounts_below() -> Result<()> {
    let node = Node::start().await?;
    let outer = HostMount::tmpfs(node.scratch()?.join("outer"))?;
    let inner = HostMount::tmpfs(outer.0.join("inner"))?;
    let pod = node.run_pod("mounts", |_| ()).await?;
    let start = async |name: &str, recursive_read_only| {
        pod.start(name, |config| {
            let mount = Mount {
                readonly: true,
                recursive_read_only,
                ..bind(&outer.0, "/mnt")
            };
            config.mounts.push(mount);
        })
        .await
    };
    let shallow = start("shallow", false).await?;
    shallow.sh("touch /mnt/inner/file").await?;
    let deep = start("deep", true).await?;
    let write = deep.exec(&["touch", "/mnt/inner/file"]).await?;
    ensure!(write.stderr.contains("Read-only file system"), "{write:?}");
    drop((inner, outer));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mount_target_in_the_image_cannot_lead_out_of_the_root() -> Result<()> {
    use crisp_e2e::catalog::busybox_layer;
    use crisp_e2e::{Entry, Image, Layer, Registry, image_spec};
    let node = Node::start().await?;
    let outside = node.scratch()?.join("outside");
    fs::create_dir_all(&outside)?;
    let trap = Layer::new([Entry::symlink("trap", &outside.display().to_string())]);
    Registry::shared().publish(
        "test/trap",
        "1",
        &Image::new(vec![busybox_layer(), trap.gzip()]),
    );
    node.pull("registry.k8s.io/test/trap:1").await?;
    let source = node.scratch()?.join("source");
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), "inside")?;
    let pod = node.run_pod("trap", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.image = Some(image_spec("registry.k8s.io/test/trap:1"));
            config.mounts.push(bind(&source, "/trap/made"));
        })
        .await?;
    // The link is followed, but within the container's root.
    ensure!(container.sh("cat /trap/made/file").await? == "inside");
    ensure!(
        fs::read_dir(&outside)?.next().is_none(),
        "the mount's target was made on the host"
    );
    node.finish().await
}
