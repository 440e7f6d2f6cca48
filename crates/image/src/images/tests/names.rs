//! Tags that are given and taken away.

use super::import::import_named;
use super::*;

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

async fn tag(images: &Images, name: &str, tag: &str, how: Naming) -> Result<Arc<Image>, Error> {
    images.tag(name, &reference(tag), how).await
}

#[tokio::test]
async fn a_tag_is_another_images_only_by_force() {
    let store = TestStore::new();
    let images = store.open();
    import_named(&images, "docker.io/library/a:1", &TestImage::small("a")).await;
    import_named(&images, "docker.io/library/b:1", &TestImage::small("b")).await;

    let tagged = tag(&images, "a:1", "x.example/a:2", Naming::IfFree).await;
    let tagged = tagged.unwrap();
    assert_eq!(tagged.tags, ["docker.io/library/a:1", "x.example/a:2"]);
    // Once more is no change.
    let again = tag(&images, tagged.id.as_str(), "x.example/a:2", Naming::IfFree).await;
    assert_eq!(again.unwrap(), tagged);

    let taken = tag(&images, "b:1", "a:1", Naming::IfFree).await;
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    let moved = tag(&images, "b:1", "a:1", Naming::Force).await.unwrap();
    assert_eq!(
        moved.tags,
        ["docker.io/library/a:1", "docker.io/library/b:1"]
    );
    let absent = tag(&images, "c:1", "d:1", Naming::Force).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");

    drop(images);
    let known = store.open().find("x.example/a:2").unwrap().unwrap();
    assert_eq!(known.tags, ["x.example/a:2"]);
}

#[tokio::test]
async fn an_image_goes_with_its_last_name() {
    let store = TestStore::new();
    let images = store.open();
    let image = TestImage::small("a");
    import_named(&images, "docker.io/library/a:1", &image).await;
    let first = reference("a:2");
    let by_digest = images.list()[0].digests.clone();
    images.tag("a:1", &first, Naming::IfFree).await.unwrap();

    images.untag(&first).await.unwrap();
    let again = images.untag(&first).await;
    assert!(matches!(again, Err(Error::NotFound { .. })), "{again:?}");
    for digest in &by_digest {
        images.untag(&reference(digest)).await.unwrap();
    }
    assert_eq!(images.list()[0].tags, ["docker.io/library/a:1"]);
    images.untag(&reference("a:1")).await.unwrap();
    assert!(images.list().is_empty());
    assert_eq!(store.leftovers(), Vec::<std::path::PathBuf>::new());
}
