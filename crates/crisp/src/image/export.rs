//! `crisp image export`.

use super::progress::{Moment, Progress};
use crate::client::{Client, told};
use anyhow::{Context, Result, bail};
use crisp_cri_api::node::v1::{ExportChunk, ExportImagesRequest};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Who may read an archive, before the umask: it holds what a registry gives to those who ask.
const MODE: u32 = 0o666;

/// Writes an archive of images to a file, which is there whole or not at all, or to standard output.
pub(crate) async fn run(client: &Client, path: &Path, images: &[String]) -> Result<()> {
    let name = path.display().to_string();
    if path == Path::new("-") {
        let mut stdout = io::stdout();
        if stdout.is_terminal() {
            bail!("an archive is nothing for a terminal: redirect it, or name a file");
        }
        return write(client, images, &mut stdout, &name).await;
    }
    match path.metadata() {
        // A pipe or a device stays what it is.
        Ok(metadata) if !metadata.is_file() => {
            let opened = OpenOptions::new().write(true).open(path);
            let mut file = opened.with_context(|| format!("opening {name}"))?;
            write(client, images, &mut file, &name).await
        }
        _ => {
            let mut file = beside(path).with_context(|| format!("writing {name}"))?;
            write(client, images, file.as_file_mut(), &name).await?;
            file.persist(path)
                .map(drop)
                .with_context(|| format!("writing {name}"))
        }
    }
}

/// A file that is to take the place of another.
fn beside(path: &Path) -> io::Result<NamedTempFile<File>> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
}

async fn write(client: &Client, images: &[String], to: &mut impl Write, name: &str) -> Result<()> {
    let request = ExportImagesRequest {
        images: images.to_vec(),
    };
    let answer = client.node().export_images(request).await.map_err(told)?;
    let (mut chunks, mut moment) = (answer.into_inner(), Moment::default());
    let mut progress = Progress::begin(&format!("exporting to {name}"));
    while let Some(ExportChunk { data }) = chunks.message().await.map_err(told)? {
        to.write_all(&data)
            .with_context(|| format!("writing {name}"))?;
        moment.done_bytes += data.len() as u64;
        progress.show(&moment);
    }
    to.flush().with_context(|| format!("writing {name}"))
}
