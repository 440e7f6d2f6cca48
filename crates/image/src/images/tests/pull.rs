//! What a pull brings, and what it does not fetch.

use super::*;

#[tokio::test]
async fn an_image_with_layers_of_all_kinds_is_pulled_and_used() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = TestImage::new(&[
        (
            GZIP,
            layer(&[
                ("etc/passwd", "base"),
                ("etc/group", "group"),
                ("gone", "x"),
            ]),
        ),
        (ZSTD, layer(&[("etc/passwd", "middle"), (".wh.gone", "")])),
        (PLAIN, layer(&[("etc/passwd", "top")])),
    ]);
    server.publish("team/app", "v1", &image);
    let images = store.open();
    let reference = server.reference("team/app:v1");
    let pulled = pull(&images, &reference).await.unwrap();

    assert_eq!(pulled.id.to_string(), image.id());
    assert_eq!(pulled.tags, [reference.to_string()]);
    assert_eq!(
        pulled.digests,
        [format!("{}@{}", reference.name(), image.manifest.digest())]
    );
    assert_eq!(pulled.config.env, ["A=b"]);
    let size: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    assert_eq!(pulled.size_bytes, size as u64);
    assert_eq!(images.list(), std::slice::from_ref(&pulled));
    for name in [reference.to_string(), image.id(), pulled.digests[0].clone()] {
        assert_eq!(images.find(&name).unwrap(), Some(pulled.clone()), "{name}");
    }
    let file = |path| {
        images
            .read_file(&pulled.id, path, 100)
            .unwrap()
            .map(|b| String::from_utf8(b).unwrap())
    };
    assert_eq!(file("etc/passwd").as_deref(), Some("top"));
    assert_eq!(file("etc/group").as_deref(), Some("group"));
    assert_eq!(file("gone"), None);
    assert_eq!(images.config_json(&pulled.id).unwrap(), image.config.bytes);

    let container = ContainerId::generate();
    let snapshot = images.prepare(&container, &pulled.id, None).await.unwrap();
    assert_eq!(snapshot.lower_dirs.len(), 3);
    assert_eq!(read(&snapshot.lower_dirs[0].join("etc/passwd")), "top");
    assert_eq!(read(&snapshot.lower_dirs[2].join("etc/passwd")), "base");
    assert!(images.image_usage().bytes > 0);
}

#[tokio::test]
async fn the_image_for_this_machine_is_chosen_from_an_index() {
    let (server, store) = (Server::start().await, TestStore::new());
    let (other, own) = (TestImage::small("other"), TestImage::small("own"));
    for image in [&other, &own] {
        server.publish_parts("app", image);
    }
    let index = index(&[("s390", &other), (own_architecture(), &own)]);
    let index_digest = index.digest();
    server.put("/v2/app/manifests/latest", index);
    let images = store.open();
    let pulled = pull(&images, &server.reference("app")).await.unwrap();
    assert_eq!(pulled.id.to_string(), own.id());
    assert!(
        pulled.digests[0].ends_with(index_digest.as_str()),
        "{:?}",
        pulled.digests
    );
    assert_eq!(images.list().len(), 1);
}

#[tokio::test]
async fn what_is_here_is_not_fetched_again() {
    let (server, store) = (Server::start().await, TestStore::new());
    let shared = layer(&[("shared", "x")]);
    let first = TestImage::new(&[(GZIP, shared.clone()), (GZIP, layer(&[("own", "1")]))]);
    let second = TestImage::new(&[(ZSTD, shared), (GZIP, layer(&[("own", "2")]))]);
    server.publish("app", "1", &first);
    server.publish("app", "2", &second);
    let images = store.open();
    let image = pull(&images, &server.reference("app:1")).await.unwrap();

    server.forget_requests();
    assert_eq!(
        pull(&images, &server.reference("app:1")).await.unwrap(),
        image
    );
    assert_eq!(
        (server.count("HEAD", "/1"), server.requests().len()),
        (1, 1)
    );

    pull(&images, &server.reference("app:2")).await.unwrap();
    assert_eq!(server.count("GET", second.layers[0].digest().as_str()), 0);
    assert_eq!(server.count("GET", second.layers[1].digest().as_str()), 1);

    // The same image under another name costs its manifest.
    server.publish("app", "again", &first);
    server.forget_requests();
    let renamed = pull(&images, &server.reference("app:again")).await.unwrap();
    assert_eq!(
        (
            renamed.id.clone(),
            renamed.tags.len(),
            server.requests().len()
        ),
        (image.id.clone(), 2, 1)
    );

    // A tag that moved is taken from the image that had it.
    server.publish("app", "1", &second);
    assert_eq!(
        pull(&images, &server.reference("app:1"))
            .await
            .unwrap()
            .id
            .to_string(),
        second.id()
    );
    assert_eq!(
        images
            .find(&image.id.to_string())
            .unwrap()
            .unwrap()
            .tags
            .len(),
        1
    );
}

#[tokio::test]
async fn pulls_of_the_same_are_one() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = big_image();
    server.publish("app", "latest", &image);
    let images = Arc::new(store.open());
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (images, reference) = (images.clone(), server.reference("app"));
            tokio::spawn(async move { pull(&images, &reference).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().id.to_string(), image.id());
    }
    assert_eq!(server.count("GET", "/latest"), 1);
    assert_eq!(server.count("GET", image.layers[0].digest().as_str()), 1);
}

#[tokio::test]
async fn images_that_share_a_layer_fetch_it_once() {
    let (server, store) = (Server::start().await, TestStore::new());
    let shared = layer(&[("big", &noise(500_000))]);
    let digest = Digest::of(&compress(GZIP, &shared));
    let images = Arc::new(store.open());
    let mut pulls = Vec::new();
    for n in 0..6 {
        let own = layer(&[("own", &n.to_string())]);
        server.publish(
            "app",
            &n.to_string(),
            &TestImage::new(&[(GZIP, shared.clone()), (GZIP, own)]),
        );
        let (images, reference) = (images.clone(), server.reference(&format!("app:{n}")));
        pulls.push(tokio::spawn(async move {
            pull(&images, &reference).await.map(drop)
        }));
    }
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(server.count("GET", digest.as_str()), 1);
    assert_eq!(images.list().len(), 6);
}

#[tokio::test]
async fn a_pull_goes_on_when_its_caller_has_gone() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = big_image();
    server.publish("app", "latest", &image);
    server.misbehave(
        &blob_path("app", &image.layers[0]),
        [Misbehaviour::CutAfter(1000)],
    );
    let images = store.open();
    let reference = server.reference("app");
    let given_up = tokio::time::timeout(Duration::from_millis(50), pull(&images, &reference));
    assert!(given_up.await.is_err());
    assert_eq!(
        pull(&images, &reference).await.unwrap().id.to_string(),
        image.id()
    );
    assert_eq!(server.count("GET", "/latest"), 1);
}

#[tokio::test]
async fn progress_tells_the_layers_and_how_far_they_are() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = big_image();
    server.publish("app", "latest", &image);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = seen.clone();
    let sink = ProgressSink::new(move |progress| lock(&listener).push(progress.clone()));
    store
        .open()
        .pull(&server.reference("app"), None, &sink)
        .await
        .unwrap();
    let seen = lock(&seen);
    let total = image.layers[0].bytes.len() as u64;
    assert!(
        matches!(&seen[1], Progress::Layers(layers) if layers[0].total_bytes == total),
        "{:?}",
        seen[1]
    );
    let last = seen.iter().rev().find_map(|progress| match progress {
        Progress::Fetching {
            done_bytes,
            total_bytes,
            ..
        } => Some((*done_bytes, *total_bytes)),
        _ => None,
    });
    assert_eq!(last, Some((total, total)));
    assert_eq!(seen.last(), Some(&Progress::Committing));
}

#[tokio::test]
async fn an_image_without_layers_has_an_empty_root() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "latest", &TestImage::new(&[]));
    let images = store.open();
    let image = pull(&images, &server.reference("app")).await.unwrap();
    let snapshot = images
        .prepare(&ContainerId::generate(), &image.id, None)
        .await
        .unwrap();
    assert_eq!(fs::read_dir(&snapshot.lower_dirs[0]).unwrap().count(), 0);
}

#[tokio::test]
async fn layers_below_an_opaque_root_are_left_out_and_a_layer_counts_once() {
    let (server, store) = (Server::start().await, TestStore::new());
    let twice = layer(&[("twice", "x")]);
    let image = TestImage::new(&[
        (GZIP, layer(&[("hidden", "x")])),
        (GZIP, layer(&[(".wh..wh..opq", ""), ("shown", "x")])),
        (GZIP, twice.clone()),
        (GZIP, layer(&[("middle", "x")])),
        (ZSTD, twice),
    ]);
    server.publish("app", "latest", &image);
    let images = store.open();
    let image = pull(&images, &server.reference("app")).await.unwrap();
    let snapshot = images
        .prepare(&ContainerId::generate(), &image.id, None)
        .await
        .unwrap();
    let names: Vec<_> = snapshot
        .lower_dirs
        .iter()
        .map(|dir| {
            fs::read_dir(dir)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
        })
        .collect();
    assert_eq!(names, ["twice", "middle", "shown"]);
    assert_eq!(images.read_file(&image.id, "hidden", 10).unwrap(), None);
}

#[tokio::test]
async fn compressed_layers_are_kept_if_asked_for() {
    let (server, mut store) = (Server::start().await, TestStore::new());
    store.settings.keep_layer_blobs = true;
    let image = TestImage::small("x");
    server.publish("app", "latest", &image);
    let images = store.open();
    let pulled = pull(&images, &server.reference("app")).await.unwrap();
    for blob in image.blobs() {
        let path = store.path("images/blobs/sha256").join(blob.digest().hex());
        assert_eq!(fs::read(path).unwrap(), blob.bytes);
    }
    images.remove(&pulled.id.to_string()).await.unwrap();
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}
