//! Content that is broken or hostile.

use super::*;

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
