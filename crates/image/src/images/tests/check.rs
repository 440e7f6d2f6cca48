//! What a check of the store finds, and what it can put right.

use super::*;
use crate::{Outcome, Owner, Repair, Report};
use std::path::Path;

async fn check(images: &Images, repair: Repair) -> Report {
    images.check(repair, |_| ()).await.unwrap()
}

fn dir(path: &str) -> Vec<u8> {
    entry(path, b'5', "", 0o755, b"")
}

fn file(path: &str, text: &str) -> Vec<u8> {
    entry(path, b'0', "", 0o644, text.as_bytes())
}

/// Layers with all that an archive can have, one of them with a path that is there twice.
fn image() -> TestImage {
    let all = [
        dir("etc"),
        file("etc/passwd", "root"),
        entry("etc/link", b'2', "passwd", 0o777, b""),
        entry("etc/again", b'1', "etc/passwd", 0o644, b""),
        entry("etc/fifo", b'6', "", 0o644, b""),
        file("implicit/deep/file", &"x".repeat(300_000)),
        file("etc/.wh.gone", ""),
        file("empty", ""),
        end(),
    ];
    let holes = pax(&[
        ("GNU.sparse.size", b"1000000"),
        ("GNU.sparse.map", b"500000,3"),
        ("GNU.sparse.name", b"sparse"),
    ]);
    let twice = [
        file("twice", "first"),
        file("twice", "second"),
        file("sparse", "replaced"),
        holes,
        file("fake", "abc"),
        end(),
    ];
    TestImage::new(&[(GZIP, all.concat()), (ZSTD, twice.concat())])
}

fn faults(report: &Report) -> Vec<&str> {
    report.faults.iter().map(|f| f.reason.as_str()).collect()
}

/// Without changing its size or its time.
fn overwrite(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"?", 2).unwrap();
}

#[tokio::test]
async fn a_whole_store_has_no_faults() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &image());
    let images = store.open();
    assert_eq!(check(&images, Repair::No).await, Report::default());
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    let container = ContainerId::generate();
    images.prepare(&container, &pulled.id, None).await.unwrap();
    let seen = Arc::new(Mutex::new(0));
    let told = seen.clone();
    let report = images.check(Repair::No, move |bytes| *lock(&told) = bytes);
    let report = report.await.unwrap();
    assert_eq!(faults(&report), [""; 0]);
    assert_eq!((report.images, report.layers, report.containers), (1, 2, 1));
    assert_eq!(report.layers_without_sums, 0);
    assert!(*lock(&seen) > 300_000);
}

#[tokio::test]
async fn damage_of_every_kind_is_found_and_fetched_again() {
    let (server, store) = (Server::start().await, TestStore::new());
    let published = image();
    server.publish("app", "1", &published);
    let images = store.open();
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    let blob = |digest: Digest| store.path("images/blobs/sha256").join(digest.hex());
    let lower = || images.store.lower_dirs(&pulled.id).unwrap();
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let damages: [Damage<'_>; 10] = [
        (
            "1 of the files that were unpacked are gone or replaced",
            Box::new(|| {
                let other = lower()[1].join("other");
                fs::write(&other, "").unwrap();
                fs::rename(&other, lower()[1].join("empty")).unwrap();
            }),
        ),
        (
            "sparse: has 5 bytes",
            Box::new(|| fs::write(lower()[0].join("sparse"), "short").unwrap()),
        ),
        (
            ": its content is another",
            Box::new(|| overwrite(&lower()[1].join("etc/passwd"))),
        ),
        (
            "deep/file: has 0 bytes",
            Box::new(|| {
                fs::write(lower()[1].join("implicit/deep/file"), "").unwrap();
            }),
        ),
        (
            "are there",
            Box::new(|| fs::remove_file(lower()[1].join("etc/link")).unwrap()),
        ),
        (
            "are there",
            Box::new(|| fs::remove_file(lower()[1].join("empty")).unwrap()),
        ),
        (
            "twice: its content",
            Box::new(|| overwrite(&lower()[0].join("twice"))),
        ),
        (
            "cannot be read",
            Box::new(|| {
                fs::remove_dir_all(lower()[1].parent().unwrap()).unwrap();
            }),
        ),
        (
            "its digest is another",
            Box::new(|| overwrite(&blob(published.config.digest()))),
        ),
        (
            "it is missing",
            Box::new(|| fs::remove_file(blob(published.manifest.digest())).unwrap()),
        ),
    ];
    for (reason, damage) in damages {
        damage();
        let report = check(&images, Repair::No).await;
        assert!(
            faults(&report).iter().any(|f| f.contains(reason)),
            "{reason}: {report:?}"
        );
        assert!(report.faults.iter().all(|f| f.outcome == Outcome::Found));
        let report = check(&images, Repair::Yes).await;
        assert!(!report.faults.is_empty());
        assert!(
            report.faults.iter().all(|f| f.outcome == Outcome::Repaired),
            "{report:?}"
        );
        assert_eq!(
            faults(&check(&images, Repair::No).await),
            [""; 0],
            "{reason}"
        );
        assert_eq!(read(&lower()[1].join("etc/passwd")), "root");
    }
    // Nothing is left of what was replaced, and a new process finds all as it is.
    let layers = fs::read_dir(store.path("layers")).unwrap().count();
    assert_eq!(layers, 3, "two layers and the staging directory");
    assert_eq!(images.list(), std::slice::from_ref(&pulled));
    drop(images);
    let images = store.open();
    assert_eq!(images.list(), [pulled]);
    assert_eq!(faults(&check(&images, Repair::No).await), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_fetched_again_stays_as_it_is() {
    let (server, store) = (Server::start().await, TestStore::new());
    let published = image();
    server.publish("app", "1", &published);
    let images = store.open();
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    let lower = images.store.lower_dirs(&pulled.id).unwrap();
    overwrite(&lower[1].join("etc/passwd"));
    let not_repaired = async || {
        let report = check(&images, Repair::Yes).await;
        let outcomes: Vec<_> = report.faults.iter().map(|f| &f.outcome).collect();
        assert!(
            matches!(outcomes[..], [Outcome::NotRepaired(_)]),
            "{report:?}"
        );
        assert_eq!(images.store.lower_dirs(&pulled.id).unwrap(), lower);
        assert!(lower[1].join("etc/passwd").exists());
    };
    // The registry has something else by now, and then nothing for nobody.
    let layer = &published.layers[0];
    server.put(&blob_path("app", layer), Blob::new(GZIP, "other"));
    not_repaired().await;
    server.protect("Basic of-nobody", "Basic realm=\"here\"");
    not_repaired().await;
    assert!(
        images
            .prepare(&ContainerId::generate(), &pulled.id, None)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_container_keeps_the_layer_that_it_has_and_the_next_one_gets_a_whole_one() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &image());
    let images = store.open();
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    let [old, new] = [ContainerId::generate(), ContainerId::generate()];
    let snapshot = images.prepare(&old, &pulled.id, None).await.unwrap();
    let damaged = snapshot.lower_dirs[1].join("etc/passwd");
    overwrite(&damaged);
    let report = check(&images, Repair::No).await;
    assert_eq!(report.faults.len(), 2);
    assert!(report.faults.iter().all(|f| f.outcome == Outcome::Found));
    let report = check(&images, Repair::Yes).await;
    let owners: Vec<_> = report
        .faults
        .iter()
        .map(|f| (&f.owner, &f.outcome))
        .collect();
    assert!(
        matches!(&owners[..], [
            (Owner::Image(..), Outcome::Repaired),
            (Owner::Container(container), Outcome::NotRepaired(why)),
        ] if *container == old && why.contains("takes its place")),
        "{report:?}"
    );
    assert!(read(&damaged).contains('?'));
    let fresh = images.prepare(&new, &pulled.id, None).await.unwrap();
    assert_eq!(read(&fresh.lower_dirs[1].join("etc/passwd")), "root");

    drop(images);
    let images = store.open();
    assert_eq!(images.snapshot(&old), Some(snapshot));
    assert_eq!(
        images.store.lower_dirs(&pulled.id).unwrap(),
        fresh.lower_dirs
    );
    images.remove_snapshot(&old).await.unwrap();
    assert!(!damaged.exists() && fresh.lower_dirs[1].exists());
}

#[tokio::test]
async fn layers_of_an_older_crisp_are_told_and_taken_as_they_are() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &TestImage::small("text"));
    let images = store.open();
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    let layer = images.store.lower_dirs(&pulled.id).unwrap()[0].clone();
    drop(images);
    let record = layer.with_file_name("layer.json");
    let text = read(&record).replace(r#","sums":"Whole""#, "");
    fs::write(&record, text).unwrap();
    fs::remove_file(layer.with_file_name("sums")).unwrap();
    let images = store.open();
    let report = check(&images, Repair::Yes).await;
    assert_eq!((report.layers_without_sums, faults(&report).len()), (1, 0));
}

#[tokio::test]
async fn of_images_with_the_same_damaged_layer_one_fetches_it_for_all() {
    let (server, store) = (Server::start().await, TestStore::new());
    let shared = layer(&[("shared", "text")]);
    let images = store.open();
    let mut pulled = Vec::new();
    for name in ["one", "two"] {
        let own = (GZIP, layer(&[("own", name)]));
        let image = TestImage::new(&[(GZIP, shared.clone()), own]);
        server.publish(name, "1", &image);
        let reference = server.reference(&format!("{name}:1"));
        let pulled_image = pull(&images, &reference).await.unwrap();
        let manifest = format!("/v2/{name}/manifests/{}", image.manifest.digest());
        pulled.push((pulled_image.id.clone(), manifest));
    }
    pulled.sort();
    let damaged = images.store.lower_dirs(&pulled[0].0).unwrap()[1].join("shared");
    overwrite(&damaged);
    // Who is looked at later is not to be had any more.
    let gone = std::iter::repeat_n(Misbehaviour::Status(404), 50);
    server.misbehave(&pulled[1].1, gone);
    let report = check(&images, Repair::Yes).await;
    assert_eq!(report.faults.len(), 2);
    assert!(
        report.faults.iter().all(|f| f.outcome == Outcome::Repaired),
        "{report:?}"
    );
    assert_eq!(faults(&check(&images, Repair::No).await), [""; 0]);
}

#[tokio::test]
async fn a_look_ends_when_nobody_waits_for_it() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &image());
    let images = store.open();
    pull(&images, &server.reference("app:1")).await.unwrap();
    let calls = Arc::new(Mutex::new(0));
    let (begin, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let counted = calls.clone();
    let look = images.check(Repair::No, move |_| {
        *lock(&counted) += 1;
        begin.send(()).ok();
        held.recv().unwrap_err();
    });
    tokio::select! {
        _ = look => panic!("the look has ended"),
        begun = has_begun.recv() => begun.unwrap(),
    }
    drop(hold);
    // Waits for the end of the first.
    assert_eq!(faults(&check(&images, Repair::No).await), [""; 0]);
    assert_eq!(*lock(&calls), 1);
}

#[tokio::test]
async fn a_repair_goes_on_when_nobody_waits_for_it() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &image());
    let images = store.open();
    let pulled = pull(&images, &server.reference("app:1")).await.unwrap();
    overwrite(&images.store.lower_dirs(&pulled.id).unwrap()[1].join("etc/passwd"));
    server.forget_requests();
    let is_asked = async || {
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        report = images.check(Repair::Yes, |_| ()) => panic!("{report:?}"),
        () = is_asked() => {}
    }
    assert_eq!(faults(&check(&images, Repair::No).await), [""; 0]);
    let lower = images.store.lower_dirs(&pulled.id).unwrap();
    assert_eq!(read(&lower[1].join("etc/passwd")), "root");
}

/// Deeper than a tree is looked at.
#[tokio::test]
async fn a_deep_layer_is_not_taken_for_a_damaged_one() {
    let (server, store) = (Server::start().await, TestStore::new());
    let path = "d/".repeat(600) + "file";
    let deep = [pax(&[("path", path.as_bytes())]), file("short", ""), end()];
    server.publish("app", "1", &TestImage::new(&[(GZIP, deep.concat())]));
    let images = store.open();
    pull(&images, &server.reference("app:1")).await.unwrap();
    assert_eq!(faults(&check(&images, Repair::No).await), [""; 0]);
}
