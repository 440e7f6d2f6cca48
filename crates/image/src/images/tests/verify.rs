//! What the administrator's verifiers have to say.

use super::*;
use crate::testing::write_script;

fn verifier(store: &TestStore, script: &str) {
    write_script(&store.path("verifiers/verifier"), script);
}

#[tokio::test]
async fn an_image_that_is_not_allowed_leaves_nothing() {
    let (server, store) = (Server::start().await, TestStore::new());
    let image = TestImage::small("text");
    server.publish("app", "1", &image);
    let (images, reference) = (store.open(), server.reference("app:1"));
    verifier(&store, "echo unsigned; exit 1");

    let error = pull(&images, &reference).await.unwrap_err();
    assert!(matches!(error, Error::NotVerified { .. }), "{error}");
    assert!(error.to_string().ends_with("unsigned"), "{error}");
    assert!(images.list().is_empty());
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
    let layer = blob_path("app", &image.layers[0]);
    assert_eq!(server.count("GET", &layer), 0);
}

#[tokio::test]
async fn an_image_that_is_here_is_asked_about_again_at_every_pull() {
    let (server, store) = (Server::start().await, TestStore::new());
    server.publish("app", "1", &TestImage::small("text"));
    let (images, reference) = (store.open(), server.reference("app:1"));
    verifier(&store, "exit 0");
    pull(&images, &reference).await.unwrap();
    verifier(&store, "exit 1");
    pull(&images, &reference).await.unwrap_err();
    assert_eq!(images.list().len(), 1);
}
