//! Archives that are written.

use super::import::{import, import_named};
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

const DIR: u8 = b'5';
const FILE: u8 = b'0';
const HARD_LINK: u8 = b'1';
const SYMLINK: u8 = b'2';

/// Where an export is written to, so that the test can see it.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn export(images: &Images, names: &[&str]) -> Result<Vec<u8>, Error> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let written = Written::default();
    images.export(&names, written.clone(), || true).await?;
    let bytes = written.0.lock().unwrap().clone();
    Ok(bytes)
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = ::tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, content)
    });
    entries.collect()
}

fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> serde_json::Value {
    serde_json::from_slice(&files[path]).unwrap()
}

/// Everything that layers can hold, and directories that they do not describe.
fn rich_image() -> TestImage {
    let below = [
        entry("./", DIR, "", 0o751, b""),
        entry("etc/", DIR, "", 0o700, b""),
        entry("etc/passwd", FILE, "", 0o640, b"root"),
        entry("etc/old", FILE, "", 0o644, b"old"),
        entry("hidden/", DIR, "", 0o755, b""),
        entry("hidden/old", FILE, "", 0o644, b"old"),
        end(),
    ];
    let long = ["a".repeat(90), "b".repeat(90), "file".to_owned()].join("/");
    let above = [
        entry("etc/added", FILE, "", 0o4755, b"added"),
        entry("etc/twice", HARD_LINK, "etc/added", 0o4755, b""),
        entry("etc/link", SYMLINK, "../nowhere", 0o777, b""),
        entry("etc/.wh.old", FILE, "", 0o644, b""),
        entry("hidden/.wh..wh..opq", FILE, "", 0o644, b""),
        entry("hidden/new", FILE, "", 0o644, b"new"),
        pax(&[
            ("path", long.as_bytes()),
            ("SCHILY.xattr.user.note", b"kept"),
        ]),
        entry("long", FILE, "", 0o600, noise(300_000).as_bytes()),
        end(),
    ];
    TestImage::new(&[(GZIP, below.concat()), (ZSTD, above.concat())])
}

/// All that is on disk of layers, whatever their numbers.
fn trees(store: &TestStore) -> BTreeSet<String> {
    let layers = fs::read_dir(store.path("layers")).unwrap();
    let layers = layers.map(|layer| layer.unwrap().path().join("fs"));
    let seen = layers.filter(|root| root.is_dir()).map(|root| {
        let mut lines = BTreeSet::new();
        let visited = crate::tree::visit(&root, |place| {
            use std::os::unix::fs::MetadataExt;
            let path = root.join(place.path());
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = match metadata.is_file() {
                true => Digest::of(&fs::read(&path).unwrap()).to_string(),
                false => format!("{:?} {}", fs::read_link(&path).ok(), metadata.rdev()),
            };
            let opaque = std::fs::File::open(&path).ok().map(|file| {
                crisp_sys::xattr::get(&file, crate::unpack::opaque_xattr()).unwrap_or_default()
            });
            let (mode, links) = (metadata.mode(), metadata.nlink());
            let links = if metadata.is_dir() { 0 } else { links };
            lines.insert(format!(
                "{} {mode:o} {} {links} {opaque:?} {content}",
                place.path().display(),
                metadata.uid(),
            ));
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(visited, Ok(crate::tree::Visited::Whole));
        format!("{lines:#?}")
    });
    seen.collect()
}

#[tokio::test]
async fn an_image_that_is_archived_anew_has_the_same_files_everywhere() {
    let store = TestStore::new();
    let images = store.open();
    import_named(&images, "docker.io/library/rich:1", &rich_image()).await;
    let first = export(&images, &["rich:1"]).await.unwrap();

    let other = TestStore::new();
    let elsewhere = other.open();
    let imported = import(&elsewhere, first.clone()).await.unwrap();
    assert_eq!(imported[0].tags, ["docker.io/library/rich:1"]);
    assert_eq!(imported[0].config.env, ["A=b"]);
    assert_eq!(trees(&other), trees(&store));
    // It is archived by what is in it, not by where that came from.
    let second = export(&elsewhere, &["rich:1"]).await.unwrap();
    assert!(first == second, "the archive of the archive is another");
}

#[tokio::test]
async fn an_archive_is_an_oci_layout_and_what_docker_loads() {
    let store = TestStore::new();
    let images = store.open();
    import_named(&images, "docker.io/library/a:1", &rich_image()).await;
    images
        .tag("a:1", &"r.example/a:2".parse().unwrap(), Naming::IfFree)
        .await
        .unwrap();
    import_named(&images, "docker.io/library/b:1", &TestImage::small("b")).await;
    let id = images.find("a:1").unwrap().unwrap().id.to_string();
    let files = files(
        &export(&images, &[&id, "b:1", "docker.io/b:1"])
            .await
            .unwrap(),
    );
    assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");

    let index = json(&files, "index.json");
    let names = index["manifests"].as_array().unwrap().iter().map(|image| {
        let annotations = &image["annotations"];
        let name = annotations["io.containerd.image.name"].as_str().unwrap();
        let tag = annotations["org.opencontainers.image.ref.name"].as_str();
        assert_eq!(name.rsplit(':').next(), tag);
        name
    });
    let names: BTreeSet<&str> = names.collect();
    let all = [
        "docker.io/library/a:1",
        "docker.io/library/b:1",
        "r.example/a:2",
    ];
    assert_eq!(names, all.into());

    let docker = json(&files, "manifest.json");
    assert_eq!(docker.as_array().unwrap().len(), 2);
    for image in docker.as_array().unwrap() {
        let config = json(&files, image["Config"].as_str().unwrap());
        let layers = image["Layers"].as_array().unwrap().iter();
        let layers = layers.map(|layer| Digest::of(&files[layer.as_str().unwrap()]));
        let layers: Vec<Digest> = layers.collect();
        assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!(layers));
    }
    // Each blob is what its name says.
    for (path, content) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
        assert!(path.ends_with(Digest::of(content).hex()), "{path}");
    }
}

#[tokio::test]
async fn compressed_layers_that_are_kept_leave_as_they_came() {
    let mut store = TestStore::new();
    store.settings.keep_layer_blobs = true;
    let images = store.open();
    let image = rich_image();
    import_named(&images, "docker.io/library/a:1", &image).await;
    let files = files(&export(&images, &["a:1"]).await.unwrap());
    for blob in image.blobs() {
        let path = format!("blobs/sha256/{}", blob.digest().hex());
        assert_eq!(files[&path], blob.bytes, "{}", blob.media_type);
    }
}

#[tokio::test]
async fn an_archive_that_nobody_wants_any_more_is_not_measured() {
    let store = TestStore::new();
    let images = store.open();
    import_named(&images, "docker.io/library/a:1", &rich_image()).await;
    let (names, written) = (["a:1".to_owned()], Written::default());
    let ended = images.export(&names, written.clone(), || false).await;
    assert!(matches!(ended, Err(Error::Io { .. })), "{ended:?}");
    assert!(written.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_or_damaged_is_not_exported() {
    let mut store = TestStore::new();
    store.settings.keep_layer_blobs = true;
    let images = store.open();
    let image = TestImage::small("a");
    import_named(&images, "docker.io/library/a:1", &image).await;
    for (names, is_expected) in [
        (vec!["a:1", "b:1"], "not found"),
        (vec!["a:1", "no such name"], "invalid image reference"),
    ] {
        let error = export(&images, &names).await.unwrap_err().to_string();
        assert!(error.contains(is_expected), "{error}");
    }
    let blob = image.layers[0].digest();
    let path = store.path(&format!("images/blobs/sha256/{}", blob.hex()));
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = export(&images, &["a:1"]).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}
