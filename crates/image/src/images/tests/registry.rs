//! Registries that fail, want to know who asks, or are stood in for.

use super::*;

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
