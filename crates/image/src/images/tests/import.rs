//! Archives.

use super::*;

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = files
        .iter()
        .flat_map(|(path, data)| entry(path, b'0', "", 0o644, data))
        .collect();
    bytes.extend(end());
    bytes
}

fn layout(image: &TestImage, annotations: &serde_json::Value) -> Vec<(String, Vec<u8>)> {
    let mut descriptor = image.manifest.descriptor();
    descriptor["annotations"] = annotations.clone();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    let blobs = image.blobs().map(|blob| {
        (
            format!("blobs/sha256/{}", blob.digest().hex()),
            blob.bytes.clone(),
        )
    });
    let mut files: Vec<_> = blobs.collect();
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files.push((
        "oci-layout".into(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    ));
    files
}

/// Takes an image in under a name.
pub(super) async fn import_named(images: &Images, name: &str, image: &TestImage) {
    let annotation = serde_json::json!({ "io.containerd.image.name": name });
    let imported = import(images, archive(&layout(image, &annotation))).await;
    assert_eq!(imported.unwrap().len(), 1);
}

pub(super) async fn import(images: &Images, bytes: Vec<u8>) -> Result<Vec<Arc<Image>>, Error> {
    images
        .import(std::io::Cursor::new(bytes), &ProgressSink::none())
        .await
}

#[tokio::test]
async fn oci_layouts_are_imported_however_they_are_compressed() {
    let image = TestImage::new(&[(GZIP, layer(&[("a", "x")])), (ZSTD, layer(&[("b", "x")]))]);
    let plain = archive(&layout(
        &image,
        &serde_json::json!({"io.containerd.image.name": "docker.io/library/app:1"}),
    ));
    for media_type in [PLAIN, GZIP, ZSTD] {
        let store = TestStore::new();
        let images = store.open();
        let imported = import(&images, compress(media_type, &plain)).await.unwrap();
        assert_eq!(imported, images.list());
        assert_eq!(imported[0].id.to_string(), image.id());
        assert_eq!(imported[0].tags, ["docker.io/library/app:1"]);
        assert_eq!(images.find("app:1").unwrap().as_ref(), imported.first());
    }
    for (name, tags) in [("latest", 0), ("quay.example/app:2", 1)] {
        let store = TestStore::new();
        let annotation = serde_json::json!({"org.opencontainers.image.ref.name": name});
        let imported = import(&store.open(), archive(&layout(&image, &annotation)))
            .await
            .unwrap();
        assert_eq!(imported[0].tags.len(), tags, "{name}");
    }
}

#[tokio::test]
async fn what_docker_saves_is_imported() {
    let store = TestStore::new();
    let base = layer(&[("base", "x")]);
    let image = TestImage::new(&[
        (PLAIN, base.clone()),
        (PLAIN, layer(&[("top", "x")])),
        (PLAIN, base),
    ]);
    let manifest = serde_json::json!([{
        "Config": "config.json",
        "RepoTags": ["busybox:1", "r.example/b:2"],
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"],
    }]);
    let bytes = [
        entry("one/layer.tar", b'0', "", 0o644, &image.layers[0].bytes),
        entry("two/layer.tar", b'0', "", 0o644, &image.layers[1].bytes),
        entry("three/layer.tar", b'2', "../one/layer.tar", 0o777, b""),
        entry("config.json", b'0', "", 0o644, &image.config.bytes),
        entry(
            "manifest.json",
            b'0',
            "",
            0o644,
            manifest.to_string().as_bytes(),
        ),
        end(),
    ]
    .concat();
    let images = store.open();
    let imported = import(&images, bytes).await.unwrap();
    assert_eq!(imported[0].id.to_string(), image.id());
    assert_eq!(
        imported[0].tags,
        ["docker.io/library/busybox:1", "r.example/b:2"]
    );
    assert_eq!(
        images
            .read_file(&imported[0].id, "top", 10)
            .unwrap()
            .as_deref(),
        Some(&b"x"[..])
    );
    drop(images);
    assert_eq!(store.open().list(), imported);
}

#[tokio::test]
async fn an_archive_for_several_machines_needs_to_hold_only_one() {
    let store = TestStore::new();
    let (other, own) = (TestImage::small("other"), TestImage::small("own"));
    let index = index(&[("s390x", &other), (own_architecture(), &own)]);
    let mut files = layout(&own, &serde_json::json!({}));
    files.retain(|(name, _)| name != "index.json");
    files.push((
        format!("blobs/sha256/{}", index.digest().hex()),
        index.bytes.clone(),
    ));
    let mut descriptor = index.descriptor();
    descriptor["annotations"] =
        serde_json::json!({"io.containerd.image.name": "docker.io/library/app:1"});
    let top = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    files.push(("index.json".into(), top.to_string().into_bytes()));
    let imported = import(&store.open(), archive(&files)).await.unwrap();
    assert_eq!(imported[0].id.to_string(), own.id());
    assert_eq!(
        imported[0].digests,
        [format!("docker.io/library/app@{}", index.digest())]
    );
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let image = TestImage::small("x");
    let files = layout(&image, &serde_json::json!({}));
    let without = |name: &str| {
        let mut files = files.clone();
        files.retain(|(path, _)| !path.ends_with(name));
        archive(&files)
    };
    let with = |extra: Vec<u8>| [extra, archive(&files)].concat();
    let whole = archive(&files);
    let tampered = {
        let mut files = files.clone();
        files[0].1[20] ^= 1;
        archive(&files)
    };
    let cases = [
        Vec::new(),
        b"no archive at all".repeat(100),
        whole[..whole.len() / 2].to_vec(),
        compress(GZIP, &whole)[..500].to_vec(),
        without("index.json"),
        without(image.layers[0].digest().hex()),
        without(image.config.digest().hex()),
        tampered,
        with(entry("../escape", b'0', "", 0o644, b"x")),
        with(entry("index.json", b'2', "../../etc/passwd", 0o777, b"")),
        with(entry("disk", b'4', "", 0o644, b"")),
        archive(&[("index.json".into(), b"[]".to_vec())]),
        archive(&[(
            "manifest.json".into(),
            br#"[{"Config":"../../etc/shadow","Layers":[]}]"#.to_vec(),
        )]),
        archive(&[(
            "manifest.json".into(),
            br#"[{"Config":"nothing","Layers":[]}]"#.to_vec(),
        )]),
    ];
    for (n, bytes) in cases.into_iter().enumerate() {
        let store = TestStore::new();
        let images = store.open();
        let error = import(&images, bytes).await.unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { .. } | Error::Refused { .. }),
            "case {n}: {error:?}"
        );
        assert_eq!(store.leftovers(), Vec::<PathBuf>::new(), "case {n}");
        assert!(images.list().is_empty());
    }
    let mut store = TestStore::new();
    store.settings.max_image_bytes = 2000;
    let bomb = compress(GZIP, &archive(&[("zeros".into(), vec![0; 100_000])]));
    let error = import(&store.open(), bomb).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}
