//! Images from a registry: names, layers as they are unpacked, and those that must be refused.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ImageFsInfoRequest, ListImagesRequest};
use crisp_e2e::catalog::{BUSYBOX, NGINX, busybox_layer};
use crisp_e2e::{
    Container, Entry, Flavour, Image, Layer, Node, PackedLayer, Packing, Registry, eventually,
    image_spec, leftovers, xattr,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tonic::Code;

/// Publishes an image under a name of its own; the answer is the name to pull.
fn publish(name: &str, image: &Image) -> String {
    Registry::shared().publish(&format!("test/{name}"), "1", image);
    format!("registry.k8s.io/test/{name}:1")
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_image_is_one_under_all_its_names() -> Result<()> {
    let image = Image::new(vec![busybox_layer()])
        .flavour(Flavour::Docker)
        .with("User", json!("1002"));
    let digest = Registry::shared().publish("test/names", "1", &image);
    Registry::shared().publish("test/names", "2", &image);
    let node = Node::start_empty(|_| ()).await?;
    let id = node.pull("registry.k8s.io/test/names:1").await?;
    ensure!(node.pull("registry.k8s.io/test/names:2").await? == id);
    ensure!(
        node.pull(&format!("registry.k8s.io/test/names@{digest}"))
            .await?
            == id
    );

    let images = node
        .images()
        .list_images(ListImagesRequest::default())
        .await?
        .into_inner()
        .images;
    ensure!(images.len() == 1, "{images:?}");
    let listed = &images[0];
    let tags: BTreeSet<&str> = listed.repo_tags.iter().map(String::as_str).collect();
    ensure!(
        tags == BTreeSet::from([
            "registry.k8s.io/test/names:1",
            "registry.k8s.io/test/names:2"
        ]),
        "{listed:?}"
    );
    ensure!(
        listed.repo_digests == [format!("registry.k8s.io/test/names@{digest}")],
        "{listed:?}"
    );
    ensure!(
        listed.size > 0 && listed.uid.as_ref().is_some_and(|uid| uid.value == 1002),
        "{listed:?}"
    );
    let names = [
        id.clone(),
        "registry.k8s.io/test/names:2".to_owned(),
        format!("registry.k8s.io/test/names@{digest}"),
    ];
    for name in names {
        let status = node.image(&name).await?.with_context(|| name.clone())?;
        ensure!(status.id == id, "{name}: {status:?}");
    }
    // Any name removes it under all of them.
    node.remove_image("registry.k8s.io/test/names:1").await?;
    ensure!(node.image("registry.k8s.io/test/names:2").await?.is_none());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_short_names_are_docker_hubs() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let id = node.pull("busybox:1.35").await?;
    ensure!(
        node.image(BUSYBOX)
            .await?
            .is_some_and(|image| image.id == id && image.repo_tags == [BUSYBOX])
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_image_that_the_registry_has_not_is_not_found() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    for name in [
        "docker.io/library/no-such:1",
        "docker.io/library/busybox:no-such",
    ] {
        let error = node.pull(name).await.err().context("it was pulled")?;
        ensure!(
            error.code() == Code::NotFound && error.message().contains("no-such"),
            "{error}"
        );
    }
    let foreign = Image::new(vec![busybox_layer()]).architecture("s390x");
    Registry::shared().publish_index("test/foreign", "1", &[foreign]);
    let error = node
        .pull("registry.k8s.io/test/foreign:1")
        .await
        .err()
        .context("it was pulled")?;
    ensure!(error.message().contains("linux/"), "{error}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_are_shared_until_the_last_image_goes() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let used = async || {
        let info = node
            .images()
            .image_fs_info(ImageFsInfoRequest {})
            .await?
            .into_inner();
        let bytes = info
            .image_filesystems
            .first()
            .and_then(|usage| usage.used_bytes);
        anyhow::Ok(bytes.context("no figure")?.value)
    };
    node.pull(BUSYBOX).await?;
    let one = used().await?;
    ensure!(one > 1_000_000, "{one} bytes");
    // nginx is busybox and three layers more.
    node.pull(NGINX).await?;
    let both = used().await?;
    node.remove_image(BUSYBOX).await?;
    let rest = used().await?;
    ensure!(
        both > one && rest > both - one / 2,
        "{one}, {both}, then {rest} bytes"
    );
    node.remove_image(NGINX).await?;
    ensure!(used().await? < one / 2);
    node.finish().await
}

async fn start<'a>(node: &'a Node, image: &str) -> Result<Container<'a>> {
    node.pull(image).await?;
    let pod = node.run_pod("image", |_| ()).await?;
    Ok(pod
        .start("main", |config| config.image = Some(image_spec(image)))
        .await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_of_all_packings_with_whiteouts_are_laid_over_each_other() -> Result<()> {
    let below = Layer::new([
        Entry::directory("data"),
        Entry::file("data/kept", "kept"),
        Entry::file("data/replaced", "below"),
        Entry::file("data/removed", "below"),
        Entry::directory("data/emptied"),
        Entry::file("data/emptied/below", "below"),
        Entry::directory("data/gone"),
        Entry::file("data/gone/below", "below"),
        Entry::file("data/becomes-directory", "below"),
        Entry::directory("data/becomes-file"),
        Entry::file("data/becomes-file/below", "below"),
    ]);
    let above = Layer::new([
        Entry::directory("data"),
        Entry::file("data/replaced", "above"),
        Entry::whiteout("data/removed"),
        Entry::whiteout("data/gone"),
        Entry::directory("data/emptied"),
        Entry::opaque("data/emptied"),
        Entry::file("data/emptied/above", "above"),
        Entry::directory("data/becomes-directory"),
        Entry::file("data/becomes-directory/above", "above"),
        Entry::file("data/becomes-file", "above"),
    ]);
    let image = Image::new(vec![
        busybox_layer(),
        below.pack(Packing::Zstd),
        above.pack(Packing::Plain),
    ]);
    let name = publish("whiteouts", &image);
    let node = Node::start_empty(|_| ()).await?;
    let container = start(&node, &name).await?;
    let found = container
        .sh("cd /data && find . -type f | sort | while read f; do echo $f $(cat $f); done")
        .await?;
    let expected = "./becomes-directory/above above\n./becomes-file above\n./emptied/above above\n./kept kept\n./replaced above";
    ensure!(found == expected, "{found}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_files_keep_links_owners_modes_and_attributes() -> Result<()> {
    let layer = Layer::new([
        Entry::directory("data").owner(12, 34).mode(0o1750),
        Entry::file("data/file", "text")
            .owner(56, 78)
            .mode(0o640)
            .xattr("user.colour", b"blue"),
        Entry::hard_link("data/hard", "data/file"),
        Entry::symlink("data/soft", "/etc/passwd"),
        Entry::program("data/setuid", "").mode(0o4755),
        Entry::file("data/capable", "").xattr("security.capability", &CAP_NET_RAW),
    ]);
    let name = publish(
        "attributes",
        &Image::new(vec![busybox_layer(), layer.gzip()]),
    );
    let node = Node::start_empty(|_| ()).await?;
    let container = start(&node, &name).await?;
    ensure!(
        container
            .sh("stat -c '%u:%g %a' /data /data/file /data/setuid")
            .await?
            == "12:34 1750\n56:78 640\n0:0 4755"
    );
    ensure!(
        container
            .sh("stat -c %i /data/file /data/hard | uniq | wc -l")
            .await?
            == "1"
    );
    ensure!(container.sh("readlink /data/soft").await? == "/etc/passwd");
    ensure!(container.sh("stat -c %Y /data/file").await? == "1700000000");
    let root = PathBuf::from(format!("/proc/{}/root", container.process().await?.0));
    ensure!(xattr(&root.join("data/file"), "user.colour")? == b"blue");
    ensure!(xattr(&root.join("data/capable"), "security.capability")? == CAP_NET_RAW);
    node.finish().await
}

/// `struct vfs_cap_data`, revision 2: permitted and effective CAP_NET_RAW.
const CAP_NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[tokio::test(flavor = "multi_thread")]
async fn privileged_absolute_paths_are_below_the_root_of_the_layer() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let outside = node.scratch()?.join("absolute");
    let layer = Layer::new([Entry::file(&outside.display().to_string(), "inside")]);
    let name = publish("absolute", &Image::new(vec![busybox_layer(), layer.gzip()]));
    let container = start(&node, &name).await?;
    let read = container.sh(&format!("cat {}", outside.display())).await?;
    ensure!(read == "inside" && !outside.exists());
    node.finish().await
}

/// Pulls what must be refused, and checks that it left nothing: no image, no file.
async fn refuse(node: &Node, name: &str, image: &str) -> Result<()> {
    let before = leftovers::files(&node.root_dir());
    let error = node
        .pull(image)
        .await
        .err()
        .with_context(|| format!("{name} was accepted"))?;
    ensure!(!error.message().is_empty());
    ensure!(node.image(image).await?.is_none(), "{name} is listed");
    // Other layers of the image may be on their way still, and go when they notice.
    let new = || {
        let after = leftovers::files(&node.root_dir());
        after.difference(&before).cloned().collect::<Vec<_>>()
    };
    let gone = eventually("nothing is left", || new().is_empty()).await;
    gone.with_context(|| format!("{name} left {:?}", new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_hostile_layers_are_refused_and_leave_nothing() -> Result<()> {
    let node = Node::start_with(|config| {
        let images = config
            .get_mut("image")
            .and_then(toml::Value::as_table_mut)
            .expect("the harness writes it");
        images.insert("max_layer_bytes".to_owned(), (8 << 20).into());
    })
    .await?;
    let outside = node.scratch()?.join("outside");
    std::fs::create_dir_all(&outside)?;
    let to = outside.display().to_string();
    let evil = |path: &str| Entry::file(path, "evil");
    let cases = [
        (
            "dots",
            vec![evil("../../../../../../../../../../tmp/crisp-e2e-dots")],
        ),
        (
            "dots-inside",
            vec![Entry::directory("a"), evil("a/../../dots-inside")],
        ),
        (
            "symlink-directory",
            vec![Entry::symlink("way", &to), evil("way/through")],
        ),
        (
            "symlink-dots",
            vec![
                Entry::symlink("way", "../../../../../../../../../../tmp"),
                evil("way/crisp-e2e-dots"),
            ],
        ),
        (
            "hard-link-out",
            vec![Entry::hard_link(
                "passwd",
                "../../../../../../../../../../etc/passwd",
            )],
        ),
        (
            "hard-link-absolute",
            vec![Entry::hard_link("passwd", "/etc/passwd-of-nobody")],
        ),
        (
            "hard-link-through",
            vec![
                Entry::symlink("way", "/etc"),
                Entry::hard_link("stolen", "way/passwd"),
            ],
        ),
        ("device", vec![Entry::character_device("dev/mem", 1, 1)]),
        ("whiteout-out", vec![Entry::whiteout("../../outside")]),
        ("whiteout-dots", vec![evil("a/.wh...")]),
        ("bomb", vec![Entry::file("bomb", vec![0; 9 << 20])]),
    ];
    for (name, entries) in cases {
        let image = publish(
            &format!("hostile-{name}"),
            &Image::new(vec![Layer::new(entries).gzip()]),
        );
        refuse(&node, name, &image).await?;
        ensure!(
            std::fs::read_dir(&outside)?.next().is_none(),
            "{name} wrote outside of its layer"
        );
        ensure!(
            !std::path::Path::new("/tmp/crisp-e2e-dots").exists(),
            "{name} wrote into /tmp"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_corrupt_layers_are_refused_and_leave_nothing() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::shared();
    let layer = |name: &str| Layer::new([Entry::file(name, name.repeat(1000))]).gzip();

    let other_bytes = layer("other-bytes");
    let image = publish("corrupt-bytes", &Image::new(vec![other_bytes.clone()]));
    let mut blob = other_bytes.blob.clone();
    let middle = blob.len() / 2;
    blob[middle] ^= 0xff;
    registry.tamper(&crisp_e2e::Digest::of(&other_bytes.blob), &blob);
    refuse(&node, "a changed byte", &image).await?;

    let cut = layer("cut");
    let image = publish("corrupt-cut", &Image::new(vec![cut.clone()]));
    registry.tamper(
        &crisp_e2e::Digest::of(&cut.blob),
        &cut.blob[..cut.blob.len() / 2],
    );
    refuse(&node, "a blob cut short", &image).await?;

    // The registry's digest is right, but the compressed stream ends early.
    let mut early = layer("early");
    early.blob.truncate(early.blob.len() / 2);
    refuse(
        &node,
        "a stream cut short",
        &publish("corrupt-early", &Image::new(vec![early])),
    )
    .await?;

    let mut lied = layer("lied");
    lied.diff_id = crisp_e2e::Digest::of(b"something else");
    refuse(
        &node,
        "another diff id",
        &publish("corrupt-diff-id", &Image::new(vec![lied])),
    )
    .await?;

    let noise = PackedLayer::new(b"this is no tar file at all".repeat(100), Packing::Gzip);
    refuse(
        &node,
        "no tar file",
        &publish("corrupt-noise", &Image::new(vec![noise])),
    )
    .await?;

    // One bad layer among good ones: these do not stay either.
    let mut lied = layer("lied-again");
    lied.diff_id = crisp_e2e::Digest::of(b"something else");
    let mixed = Image::new(vec![layer("good"), lied, layer("good-too")]);
    refuse(
        &node,
        "one bad layer of three",
        &publish("corrupt-mixed", &mixed),
    )
    .await?;
    node.finish().await
}
