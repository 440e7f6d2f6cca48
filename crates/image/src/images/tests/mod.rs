//! Images from end to end, with a registry in this process.

mod check;
mod export;
mod hostile;
mod import;
mod lifetime;
mod names;
mod pull;
mod registry;
mod verify;

use super::*;
use crate::Digest;
use crate::tar::tests::{end, entry, pax};
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
