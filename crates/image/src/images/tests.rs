//! Images from end to end, with a registry in this process.

use super::*;
use crate::Digest;
use crate::tar::tests::{end, entry};
use crate::testing::{
    Blob, GZIP, Misbehaviour, PLAIN, Server, TestImage, TestStore, ZSTD, compress, index, layer,
    own_architecture, read,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use std::time::Duration;

async fn pull(images: &Images, reference: &Reference) -> Result<Arc<Image>, Error> {
    images.pull(reference, None, &ProgressSink::none()).await
}

fn blob_path(repository: &str, blob: &Blob) -> String {
    format!("/v2/{repository}/blobs/{}", blob.digest())
}

/// Content that does not compress, so that transfers are as long as they look.
fn noise(len: usize) -> String {
    let mut text = String::new();
    let mut n = 0_u64;
    while text.len() < len {
        text += Digest::of(&n.to_le_bytes()).hex();
        n += 1;
    }
    text
}

fn big_image() -> TestImage {
    TestImage::new(&[(GZIP, layer(&[("big", &noise(1_000_000))]))])
}

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
    let snapshot = images.prepare(&container, &pulled.id).await.unwrap();
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
async fn a_broken_transfer_is_resumed_where_it_broke() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = big_image();
    server.publish("app", "latest", &image);
    let path = blob_path("app", &image.layers[0]);
    let many = (0..6).map(|_| Misbehaviour::CutAfter(50_000));
    server.misbehave(
        &path,
        many.chain([Misbehaviour::IgnoreRange, Misbehaviour::Status(503)]),
    );
    pull(&store.open(), &server.reference("app")).await.unwrap();
    let requests = server.requests();
    let ranges: Vec<_> = requests
        .iter()
        .filter_map(|request| request.headers.get("range"))
        .collect();
    assert!(
        ranges.len() >= 6 && ranges[1] == "bytes=100000-",
        "{ranges:?}"
    );
}

#[tokio::test]
async fn a_transfer_that_never_comes_is_given_up() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = big_image();
    server.publish("app", "latest", &image);
    let path = blob_path("app", &image.layers[0]);
    server.misbehave(&path, (0..10).map(|_| Misbehaviour::StallAfter(100)));
    let images = store.open();
    let error = pull(&images, &server.reference("app")).await.unwrap_err();
    assert!(
        matches!(&error, Error::RegistryUnavailable { reason, .. } if reason.contains("stalled")),
        "{error}"
    );
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
    assert_eq!(server.count("GET", image.layers[0].digest().as_str()), 4);
}

#[tokio::test]
async fn what_is_not_there_or_not_given_is_told_apart() {
    let (server, store) = (Server::start().await, TestStore::new());
    let images = store.open();
    let error = pull(&images, &server.reference("none")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    server.misbehave("/v2/app/manifests/latest", [Misbehaviour::Status(403)]);
    let error = pull(&images, &server.reference("app")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    server.misbehave(
        "/v2/app/manifests/latest",
        (0..9).map(|_| Misbehaviour::Status(500)),
    );
    let error = pull(&images, &server.reference("app")).await.unwrap_err();
    assert!(
        matches!(error, Error::RegistryUnavailable { .. }),
        "{error}"
    );
    let nobody: Reference = "127.0.0.1:1/app".parse().unwrap();
    let error = pull(&images, &nobody).await.unwrap_err();
    assert!(
        matches!(error, Error::RegistryUnavailable { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_lost_a_layer_is_not_one_without_the_image() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = TestImage::small("x");
    server.publish("app", "latest", &image);
    server.misbehave(
        &blob_path("app", &image.layers[0]),
        [Misbehaviour::Status(404)],
    );
    let error = pull(&store.open(), &server.reference("app"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn content_that_is_not_what_it_should_be_is_refused_and_leaves_nothing() {
    let archive = layer(&[("file", "x")]);
    let diff_id = Digest::of(&archive);
    let gzip = compress(GZIP, &archive);
    let good = layer(&[("good", "x")]);
    let with = |blob: Vec<u8>, diff_id: &Digest| {
        let layers = vec![
            Blob::new(GZIP, blob),
            Blob::new(GZIP, compress(GZIP, &good)),
        ];
        TestImage::from_blobs(layers, &[diff_id.clone(), Digest::of(&good)])
    };
    let truncated = [&gzip[..gzip.len() - 10], &[]].concat();
    let garbage_behind = [&gzip[..], b"garbage"].concat();
    let no_archive = compress(
        GZIP,
        b"this is no archive but it is long enough"
            .repeat(20)
            .as_slice(),
    );
    let half = compress(GZIP, &archive[..600]);
    let data_behind_end = compress(GZIP, &[&archive[..], &[7; 512]].concat());
    let cases = [
        with(truncated.clone(), &diff_id),
        with(garbage_behind, &diff_id),
        with(gzip.clone(), &Digest::of(b"other")),
        with(no_archive, &diff_id),
        with(half, &diff_id),
        with(data_behind_end, &diff_id),
        with(Vec::new(), &diff_id),
        TestImage::from_blobs(vec![Blob::new(GZIP, gzip.clone())], &[]),
    ];
    let server = Server::start().await;
    for (n, image) in cases.iter().enumerate() {
        let store = TestStore::new();
        server.publish("app", "latest", image);
        let images = store.open();
        let error = pull(&images, &server.reference("app")).await.unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { .. }),
            "case {n}: {error:?}"
        );
        assert_eq!(store.leftovers(), Vec::<PathBuf>::new(), "case {n}");
        assert!(images.list().is_empty());
    }

    // A registry that gives something else than it was asked for, of the right and of the wrong size.
    let image = with(gzip.clone(), &diff_id);
    let mut other = gzip;
    let last = other.len() - 1;
    other[last] ^= 1;
    for lie in [other, truncated] {
        let store = TestStore::new();
        server.publish("app", "latest", &image);
        server.put(&blob_path("app", &image.layers[0]), Blob::new(GZIP, lie));
        let error = pull(&store.open(), &server.reference("app"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn hostile_layers_and_bombs_are_refused_and_leave_nothing() {
    let server = Server::start().await;
    let archive = |entries: &[Vec<u8>]| [entries.concat(), end()].concat();
    let hostile = [
        archive(&[entry("../escape", b'0', "", 0o644, b"")]),
        archive(&[
            entry("link", b'2', "/etc", 0o777, b""),
            entry("link/f", b'0', "", 0o644, b""),
        ]),
        archive(&[entry("disk", b'4', "", 0o666, b"")]),
        archive(&[entry("bomb", b'0', "", 0o644, &vec![0; 2_000_000])]),
    ];
    for archive in hostile {
        let mut store = TestStore::new();
        store.settings.max_layer_bytes = 1_000_000;
        let good = layer(&[("good", "x")]);
        server.publish(
            "app",
            "latest",
            &TestImage::new(&[(ZSTD, good), (GZIP, archive)]),
        );
        let error = pull(&store.open(), &server.reference("app"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
    }

    let mut store = TestStore::new();
    store.settings.max_image_bytes = 150_000;
    let layers: Vec<_> = (0..3)
        .map(|n| (GZIP, layer(&[(&*n.to_string(), &noise(60_000))])))
        .collect();
    server.publish("app", "latest", &TestImage::new(&layers));
    let error = pull(&store.open(), &server.reference("app"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}

fn basic_auth() -> Auth {
    Auth {
        username: "someone".into(),
        password: "secret".into(),
        ..Auth::default()
    }
}

fn basic_header() -> String {
    format!("Basic {}", STANDARD.encode("someone:secret"))
}

#[tokio::test]
async fn every_way_to_authenticate_works() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "latest", &TestImage::small("x"));
    server.put("/token", Blob::new("application/json", r#"{"token":"t1"}"#));
    let bearer = format!(
        r#"Bearer realm="http://{}/token",service="s",scope="repository:app:pull""#,
        server.address
    );
    let images = store.open();
    let reference = server.reference("app");
    let pull = async |auth: Option<Auth>| {
        let result = images
            .pull(&reference, auth.as_ref(), &ProgressSink::none())
            .await;
        images.remove(&reference.to_string()).await.unwrap();
        result
    };

    server.protect("Bearer t1", &bearer);
    pull(None).await.unwrap();
    let token_request = |n: usize| {
        let requests = server.requests();
        requests
            .into_iter()
            .filter(|request| request.path.starts_with("/token"))
            .nth(n)
            .unwrap()
    };
    assert_eq!(
        token_request(0).path,
        "/token?scope=repository%3Aapp%3Apull&service=s"
    );
    assert!(!token_request(0).headers.contains_key("authorization"));

    pull(Some(basic_auth())).await.unwrap();
    assert_eq!(token_request(1).headers["authorization"], basic_header());

    pull(Some(Auth {
        identity_token: "i&d".into(),
        ..Auth::default()
    }))
    .await
    .unwrap();
    let exchange = token_request(2);
    assert_eq!(exchange.method, "POST");
    assert!(
        exchange.body.contains("refresh_token=i%26d")
            && exchange.body.contains("grant_type=refresh_token")
    );

    server.forget_requests();
    pull(Some(Auth {
        registry_token: "t1".into(),
        ..Auth::default()
    }))
    .await
    .unwrap();
    assert_eq!(server.count("GET", "/token"), 0);

    server.protect(&basic_header(), r#"Basic realm="x""#);
    pull(Some(basic_auth())).await.unwrap();
    assert!(matches!(pull(None).await, Err(Error::Unauthorized { .. })));
    let wrong = Auth {
        password: "wrong".into(),
        ..basic_auth()
    };
    assert!(matches!(
        pull(Some(wrong)).await,
        Err(Error::Unauthorized { .. })
    ));
}

#[tokio::test]
async fn credentials_reach_neither_other_hosts_nor_mirrors() {
    let (server, elsewhere, store) = (
        Server::start().await,
        Server::start().await,
        TestStore::new(),
    );
    let image = TestImage::small("x");
    server.publish("app", "latest", &image);
    elsewhere.publish("app", "latest", &image);
    let path = blob_path("app", &image.layers[0]);
    server.protect(&basic_header(), r#"Basic realm="x""#);
    let away = format!("http://{}{path}", elsewhere.address);
    server.misbehave(&path, [Misbehaviour::RedirectTo(away)]);
    let images = store.open();
    let reference = server.reference("app");
    images
        .pull(&reference, Some(&basic_auth()), &ProgressSink::none())
        .await
        .unwrap();
    assert_eq!(elsewhere.count("GET", &path), 1);

    // A mirror that asks for credentials is passed over.
    images.remove(&reference.to_string()).await.unwrap();
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        server.address, elsewhere.address
    );
    store.write_hosts(&server.address, &hosts);
    elsewhere.protect("Basic stolen", r#"Basic realm="give me""#);
    images
        .pull(&reference, Some(&basic_auth()), &ProgressSink::none())
        .await
        .unwrap();

    // Credentials for another registry go nowhere.
    images.remove(&reference.to_string()).await.unwrap();
    let foreign = Auth {
        server_address: "r.example".into(),
        ..basic_auth()
    };
    let error = images
        .pull(&reference, Some(&foreign), &ProgressSink::none())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(
        elsewhere
            .requests()
            .iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn mirrors_stand_for_a_registry_that_cannot_be_reached() {
    let (empty, mirror, store) = (
        Server::start().await,
        Server::start().await,
        TestStore::new(),
    );
    let image = TestImage::new(&[(GZIP, layer(&[("1", "x")])), (GZIP, layer(&[("2", "x")]))]);
    mirror.publish("library/busybox", "latest", &image);
    store.write_hosts(
        "docker.io",
        &format!(
            "server = \"http://127.0.0.1:1\"
             [host.\"http://127.0.0.1:2\"]
             [host.\"http://{}\"]
             [host.\"http://{}/v2\"]
             header = {{ X-Mirror = \"yes\" }}",
            empty.address, mirror.address
        ),
    );
    let images = store.open();
    let pulled = pull(&images, &"busybox".parse().unwrap()).await.unwrap();
    assert_eq!(pulled.tags, ["docker.io/library/busybox:latest"]);
    assert_eq!(images.find("busybox").unwrap(), Some(pulled));
    for request in mirror.requests() {
        assert!(request.path.ends_with("?ns=docker.io"), "{}", request.path);
        assert_eq!(request.headers["x-mirror"], "yes");
    }
    assert!(empty.requests().len() >= 4);

    store.write_hosts("docker.io", "server = 1");
    let error = pull(&images, &"busybox:1".parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error:?}");
}

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
    server.publish("app", "synced", &TestImage::small("1"));
    let images = store.open();
    pull(&images, &server.reference("app:synced"))
        .await
        .unwrap();
    // The annotation goes when the disk has everything.
    while read(&store.path("images/index.json")).contains("unsynced") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.publish("app", "unsynced", &TestImage::small("2"));
    pull(&images, &server.reference("app:unsynced"))
        .await
        .unwrap();
    while read(&store.path("images/index.json")).contains("unsynced-since") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(images);
    // As it is between a pull and the end of the sync, in an earlier run of the kernel.
    let path = store.path("images/index.json");
    let mut index: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
    for descriptor in index["manifests"].as_array_mut().unwrap() {
        let annotations = &mut descriptor["annotations"];
        let name = annotations["org.opencontainers.image.ref.name"]
            .as_str()
            .unwrap()
            .to_owned();
        let images = server.reference("app:unsynced");
        let is_unsynced = name == images.to_string()
            || name.ends_with(TestImage::small("2").manifest.digest().as_str());
        if is_unsynced {
            annotations["dev.crisp.unsynced-since-boot"] = "another boot".into();
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
        .prepare(&ContainerId::generate(), &image.id)
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
        .prepare(&ContainerId::generate(), &image.id)
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

async fn import(images: &Images, bytes: Vec<u8>) -> Result<Vec<Arc<Image>>, Error> {
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
