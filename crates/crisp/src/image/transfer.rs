//! `crisp image pull` and `import`, by crisp's own service, which tells how far they have come.

use super::progress::{Moment, Progress};
use crate::client::{Client, told};
use crate::output;
use anyhow::{Context, Result, bail};
use crisp_cri_api::node::v1::{
    BlobProgress, Credentials, ImportChunk, ImportProgress, PullImageRequest, PullProgress,
    StoredImage,
};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How much of an archive is sent at once, and how many such pieces wait at most.
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNKS_MAX: usize = 4;

/// Fetches an image and tells the person what it is.
pub(super) async fn pull(
    client: &Client,
    name: &str,
    credentials: Option<Credentials>,
) -> Result<()> {
    let image = fetch(client, name, credentials).await?;
    output::line(described(&image))
}

/// Fetches an image; how far it has come is shown meanwhile.
pub(crate) async fn fetch(
    client: &Client,
    name: &str,
    credentials: Option<Credentials>,
) -> Result<StoredImage> {
    let request = PullImageRequest {
        image: name.to_owned(),
        credentials,
    };
    let mut progress = Progress::begin(&format!("pulling {name}"));
    let mut answers = client
        .node()
        .pull_image(request)
        .await
        .map_err(told)?
        .into_inner();
    while let Some(PullProgress { blobs, image }) = answers.message().await.map_err(told)? {
        match image {
            Some(image) => return Ok(image),
            None => progress.show(&of_blobs(&blobs)),
        }
    }
    bail!("the daemon ended before the image was there")
}

fn of_blobs(blobs: &[BlobProgress]) -> Moment {
    let sum = |of: fn(&BlobProgress) -> u64| blobs.iter().map(of).sum::<u64>();
    let done = blobs
        .iter()
        .filter(|blob| blob.fetched_bytes >= blob.total_bytes)
        .count();
    Moment {
        done_bytes: sum(|blob| blob.fetched_bytes),
        total_bytes: (!blobs.is_empty()).then(|| sum(|blob| blob.total_bytes)),
        parts: (!blobs.is_empty()).then_some((done, blobs.len())),
    }
}

/// Takes an archive in, and gives the images that were in it; how far it has come is shown meanwhile.
pub(crate) async fn import(client: &Client, path: &Path) -> Result<Vec<StoredImage>> {
    let (archive, total_bytes) = open(path)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let name = path.display().to_string();
    // A thread of its own: what is read from may be a pipe.
    let reader = std::thread::Builder::new().name("archive".to_owned());
    let reader = reader
        .spawn(move || send(archive, &sender))
        .context("starting a thread")?;
    let mut progress = Progress::begin(&format!("importing {name}"));
    let request = ReceiverStream::new(receiver);
    let mut answers = client
        .node()
        .import_images(request)
        .await
        .map_err(told)?
        .into_inner();
    let mut images = Vec::new();
    while let Some(ImportProgress {
        received_bytes,
        images: found,
    }) = answers.message().await.map_err(told)?
    {
        images = found;
        progress.show(&Moment {
            done_bytes: received_bytes,
            total_bytes,
            parts: None,
        });
    }
    drop(progress);
    // It has ended: its channel is closed.
    if let Ok(read) = reader.join() {
        read.with_context(|| format!("reading {name}"))?;
    }
    if images.is_empty() {
        bail!("{name}: there is no image in it");
    }
    Ok(images)
}

/// The archive and how long it is, if that can be known.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let opened = || format!("opening {}", path.display());
    let file = File::open(path).with_context(opened)?;
    let metadata = file.metadata().with_context(opened)?;
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Reads to the end, or until nobody wants more.
fn send(mut archive: impl Read, to: &mpsc::Sender<ImportChunk>) -> io::Result<()> {
    loop {
        let mut data = Vec::new();
        archive.by_ref().take(CHUNK_BYTES).read_to_end(&mut data)?;
        if data.is_empty() || to.blocking_send(ImportChunk { data }).is_err() {
            return Ok(());
        }
    }
}

/// `sha256:… docker.io/library/busybox:1`.
pub(super) fn described(image: &StoredImage) -> String {
    let names = image
        .names
        .iter()
        .fold(String::new(), |text, name| text + " " + name);
    format!("{}{names}", image.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_summed_up() {
        let blob = |fetched_bytes, total_bytes| BlobProgress {
            digest: String::new(),
            fetched_bytes,
            total_bytes,
        };
        let moment = of_blobs(&[blob(5, 5), blob(1, 10)]);
        let expected = Moment {
            done_bytes: 6,
            total_bytes: Some(15),
            parts: Some((1, 2)),
        };
        assert_eq!(moment, expected);
        assert_eq!(of_blobs(&[]), Moment::default());
    }

    #[test]
    fn an_archive_is_sent_whole_in_pieces() {
        let archive = vec![7_u8; (CHUNK_BYTES + 3).try_into().unwrap()];
        let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
        send(archive.as_slice(), &sender).unwrap();
        drop(sender);
        let pieces: Vec<usize> = std::iter::from_fn(|| receiver.blocking_recv())
            .map(|c| c.data.len())
            .collect();
        assert_eq!(pieces, [1 << 20, 3]);
    }
}
