//! What stays over restarts and removals, and what goes.

use super::*;

#[tokio::test]
async fn layers_stay_as_long_as_an_image_or_a_snapshot_needs_them() {
    let (server, store) = (Server::start().await, TestStore::new());
    let shared = layer(&[("shared", "x")]);
    let first = TestImage::new(&[(GZIP, shared.clone()), (GZIP, layer(&[("own", "1")]))]);
    let second = TestImage::new(&[(GZIP, shared), (GZIP, layer(&[("own", "2")]))]);
    server.publish("app", "1", &first);
    server.publish("app", "2", &second);
    let images = store.open();
    let first = pull(&images, &server.reference("app:1")).await.unwrap();
    let second = pull(&images, &server.reference("app:2")).await.unwrap();
    let container = ContainerId::generate();
    let snapshot = images.prepare(&container, &first.id).await.unwrap();

    images.remove(&first.tags[0]).await.unwrap();
    images.remove(&first.tags[0]).await.unwrap();
    assert_eq!(images.list(), std::slice::from_ref(&second));
    assert_eq!(read(&snapshot.lower_dirs[0].join("own")), "1");
    assert!(matches!(
        images.prepare(&ContainerId::generate(), &first.id).await,
        Err(Error::NotFound { .. })
    ));

    drop(images);
    let images = store.open();
    assert_eq!(images.snapshot(&container), Some(snapshot.clone()));
    images.remove_snapshot(&container).await.unwrap();
    assert!(!snapshot.lower_dirs[0].exists() && snapshot.lower_dirs[1].exists());

    images.remove(&second.id.to_string()).await.unwrap();
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
    assert_eq!(images.image_usage().bytes, 0);
}

#[tokio::test]
async fn only_the_snapshots_of_known_containers_are_kept() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "latest", &TestImage::small("x"));
    let images = store.open();
    let image = pull(&images, &server.reference("app")).await.unwrap();
    let [kept, lost] = [ContainerId::generate(), ContainerId::generate()];
    for container in [&kept, &lost] {
        let snapshot = images.prepare(container, &image.id).await.unwrap();
        fs::write(snapshot.upper_dir.join("file"), vec![1; 10_000]).unwrap();
    }
    assert_eq!(images.container_usage().unwrap().inodes, 4);
    images
        .retain_snapshots(&HashSet::from([kept.clone()]))
        .unwrap();
    assert!(images.snapshot(&lost).is_none() && images.snapshot(&kept).is_some());
    let usage = images.snapshot_usage(&kept).unwrap();
    assert!(usage.inodes == 2 && usage.bytes >= 10_000, "{usage:?}");
}

#[tokio::test]
async fn a_store_is_found_as_it_was_left() {
    let (server, mut store) = (Server::start().await, TestStore::new());
    store.settings.pinned = vec![format!("{}/*", server.address)];
    server.publish("app", "1", &TestImage::small("1"));
    server.publish("app", "2", &TestImage::small("2"));
    let images = store.open();
    for tag in ["app:1", "app:2"] {
        assert!(pull(&images, &server.reference(tag)).await.unwrap().pinned);
    }
    let before = images.list();
    drop(images);
    assert_eq!(store.open().list(), before);

    // A layer that vanished takes its image with it.
    let images = store.open();
    let layers = images.store.lower_dirs(&before[0].id).unwrap();
    fs::remove_dir_all(layers[0].parent().unwrap()).unwrap();
    drop(images);
    assert_eq!(store.open().list(), [before[1].clone()]);

    // An index that was torn is one that is empty.
    fs::write(store.path("images/index.json"), "{").unwrap();
    assert!(store.open().list().is_empty());
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn after_a_power_cut_an_image_is_there_whole_or_not_at_all() {
    let (server, store) = (Server::start().await, TestStore::new());
    let images = store.open();
    for tag in ["synced", "unsynced"] {
        server.publish("app", tag, &TestImage::small(tag));
        pull(&images, &server.reference(&format!("app:{tag}")))
            .await
            .unwrap();
    }
    // The annotation goes when everything is on the disk.
    let path = store.path("images/index.json");
    while read(&path).contains("unsynced-since-boot") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(images);
    // As it is before that, when the machine starts again.
    let unsynced = TestImage::small("unsynced").manifest.digest().to_string();
    let mut index: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
    for descriptor in index["manifests"].as_array_mut().unwrap() {
        if descriptor["digest"] == unsynced.as_str() {
            descriptor["annotations"]["dev.crisp.unsynced-since-boot"] = "another boot".into();
        }
    }
    fs::write(&path, index.to_string()).unwrap();
    let images = store.open();
    let tags: Vec<_> = images
        .list()
        .iter()
        .flat_map(|image| image.tags.clone())
        .collect();
    assert_eq!(tags, [server.reference("app:synced").to_string()]);
}

#[tokio::test]
async fn annotations_of_the_manifest_are_known_after_a_restart_too() {
    let (server, store) = (Server::start().await, TestStore::new());
    let mut image = TestImage::small("text");
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    manifest["annotations"] = serde_json::json!({ "org.example": "value" });
    image.manifest = Blob::new(&image.manifest.media_type, manifest.to_string());
    server.publish("app", "1", &image);
    let images = store.open();
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    assert_eq!(pulled.annotations["org.example"], "value");
    drop(images);
    assert_eq!(store.open().list()[0].annotations, pulled.annotations);
}
