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
    let snapshot = images.prepare(&container, &first.id, None).await.unwrap();

    images.remove(&first.tags[0]).await.unwrap();
    images.remove(&first.tags[0]).await.unwrap();
    assert_eq!(images.list(), std::slice::from_ref(&second));
    assert_eq!(read(&snapshot.lower_dirs[0].join("own")), "1");
    assert!(matches!(
        images
            .prepare(&ContainerId::generate(), &first.id, None)
            .await,
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
        let snapshot = images.prepare(container, &image.id, None).await.unwrap();
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
    until_synced(&store).await;
    drop(images);
    let path = store.path("images/index.json");
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

/// Waits until everything is on the disk, which the index then says.
async fn until_synced(store: &TestStore) {
    let path = store.path("images/index.json");
    while read(&path).contains("unsynced-since-boot") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Has the store believe that the machine was restarted before anything was on disk.
fn lose_power(store: &TestStore) {
    let path = store.path("images/index.json");
    let mut index: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
    for descriptor in index["manifests"].as_array_mut().unwrap() {
        descriptor["annotations"]["dev.crisp.unsynced-since-boot"] = "another boot".into();
    }
    fs::write(&path, index.to_string()).unwrap();
}

#[tokio::test]
async fn after_a_power_cut_no_image_is_made_of_layers_that_may_be_torn() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &TestImage::small("text"));
    let images = store.open();
    let image = pull(&images, &server.reference("app:1")).await.unwrap();
    let container = ContainerId::generate();
    let snapshot = images.prepare(&container, &image.id, None).await.unwrap();
    until_synced(&store).await;
    drop(images);
    // As file systems leave files whose content had not reached the disk.
    let torn = snapshot.lower_dirs[0].join("file");
    fs::write(&torn, "").unwrap();
    lose_power(&store);
    let images = store.open();
    assert!(images.list().is_empty());
    // The container ended with the machine; what it has stays until it is removed.
    assert_eq!(images.snapshot(&container), Some(snapshot));
    let again = pull(&images, &server.reference("app:1")).await.unwrap();
    let whole = images.store.lower_dirs(&again.id).unwrap();
    assert_eq!(read(&whole[0].join("file")), "text");
    images.remove_snapshot(&container).await.unwrap();
    assert!(!torn.exists() && whole[0].exists());
}

#[tokio::test]
async fn files_that_a_power_cut_left_empty_or_torn_cost_no_more_than_what_they_were_part_of() {
    let (server, store) = (Server::start().await, TestStore::new());
    for tag in ["lost", "kept"] {
        server.publish("app", tag, &TestImage::small(tag));
    }
    for (file, text) in [
        ("layer.json", ""),
        ("layer.json", "{\"version\":1,"),
        ("manifest", ""),
        ("config", "{"),
    ] {
        let images = store.open();
        let lost = pull(&images, &server.reference("app:lost")).await.unwrap();
        let kept = pull(&images, &server.reference("app:kept")).await.unwrap();
        let layer = images.store.lower_dirs(&lost.id).unwrap()[0].clone();
        let blob = |digest: &Digest| store.path("images/blobs/sha256").join(digest.hex());
        let manifest = TestImage::small("lost").manifest.digest();
        drop(images);
        let path = match file {
            "manifest" => blob(&manifest),
            "config" => blob(lost.id.digest()),
            file => layer.with_file_name(file),
        };
        fs::write(path, text).unwrap();
        let images = store.open();
        assert_eq!(images.list(), [kept], "{file}: {text:?}");
        let again = pull(&images, &server.reference("app:lost")).await.unwrap();
        let layer = &images.store.lower_dirs(&again.id).unwrap()[0];
        assert_eq!(read(&layer.join("file")), "lost");
    }
}

/// Pulls, removals, containers and collections all at once: what somebody has is there while he has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_collected_that_a_container_or_a_pull_has() {
    const ROUNDS: u64 = 60;
    let (server, store) = (Server::start().await, TestStore::new());
    let shared = layer(&[("shared", "shared")]);
    for n in 0..3 {
        let own = layer(&[("own", &n.to_string())]);
        let image = TestImage::new(&[(GZIP, shared.clone()), (GZIP, own)]);
        server.publish("app", &n.to_string(), &image);
    }
    let images = Arc::new(store.open());
    let live = async |images: Arc<Images>, seed: u64, references: Vec<Reference>| {
        for round in 0..ROUNDS {
            let n = usize::try_from((seed * 31 + round * 17) % 3).unwrap();
            let image = pull(&images, &references[n]).await.unwrap();
            let container = ContainerId::generate();
            // Another one may have removed the image by now.
            let prepared = images.prepare(&container, &image.id, None).await;
            if (seed + round).is_multiple_of(2) {
                images.remove(&image.id.to_string()).await.unwrap();
            }
            let Ok(snapshot) = prepared else {
                continue;
            };
            for _ in 0..3 {
                let store = images.store.clone();
                spawn_blocking(move || store.collect_garbage())
                    .await
                    .unwrap();
                assert_eq!(read(&snapshot.lower_dirs[0].join("own")), n.to_string());
                assert_eq!(read(&snapshot.lower_dirs[1].join("shared")), "shared");
            }
            images.remove_snapshot(&container).await.unwrap();
        }
    };
    let references: Vec<_> = (0..3)
        .map(|n| server.reference(&format!("app:{n}")))
        .collect();
    let lives: Vec<_> = (0..4)
        .map(|seed| tokio::spawn(live(images.clone(), seed, references.clone())))
        .collect();
    for life in lives {
        life.await.unwrap();
    }
    for image in images.list() {
        images.remove(&image.id.to_string()).await.unwrap();
    }
    images.store.collect_garbage();
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}
