//! The archive of a checkpoint.

use crate::error::{Error, Result};
use crisp_image::Timely;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tar::{Builder, EntryType, Header};

/// What an archive is made of.
#[derive(Debug)]
pub(super) struct Archive {
    files: PathBuf,
    log: Option<PathBuf>,
}

impl Archive {
    /// Of all files in a directory, and a container's log.
    pub(super) fn new(files: PathBuf, log: Option<PathBuf>) -> Self {
        Self { files, log }
    }

    /// Adds a file that says something, as JSON.
    pub(super) fn describe(&self, name: &str, what: &impl Serialize) -> Result<()> {
        let path = self.files.join(name);
        let text = serde_json::to_vec_pretty(what)
            .map_err(|e| Error::Internal(format!("{}: {e}", path.display())))?;
        fs::write(&path, text).map_err(Error::io("write", path))
    }

    /// Writes it to `to`, and has it outlive the host's power.
    pub(super) fn write(&self, to: File, until: Instant) -> Result<()> {
        let mut builder = Builder::new(BufWriter::new(to));
        let written = self.append_all(&mut builder, until).and_then(|()| {
            let mut buffer = builder.into_inner()?;
            buffer.flush()?;
            buffer.get_ref().sync_all()
        });
        written.map_err(Error::io("archive", &self.files))
    }

    fn append_all(&self, to: &mut Builder<impl Write>, until: Instant) -> io::Result<()> {
        append_directory(to, &self.files, Path::new(""), until)?;
        match self.log.as_ref().map(File::open) {
            Some(Ok(log)) => append(to, log, Path::new("container.log"), until),
            _ => Ok(()),
        }
    }
}

fn append_directory(
    to: &mut Builder<impl Write>,
    directory: &Path,
    name: &Path,
    until: Instant,
) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            to.append_data(
                &mut header(EntryType::Directory, 0o700, 0),
                &name,
                io::empty(),
            )?;
            append_directory(to, &path, &name, until)?;
        } else if kind.is_file() {
            append(to, File::open(path)?, &name, until)?;
        }
    }
    Ok(())
}

/// As much of a file as there is now: a log goes on.
fn append(to: &mut Builder<impl Write>, file: File, name: &Path, until: Instant) -> io::Result<()> {
    let size = file.metadata()?.len();
    let content = Timely::of_file(file, size, until);
    to.append_data(&mut header(EntryType::Regular, 0o600, size), name, content)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    header.set_mtime(now.map_or(0, |now| now.as_secs()));
    header
}
