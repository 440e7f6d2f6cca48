//! Files and directories of the daemon's own.

use crate::error::{Error, Result};
use crisp_crash::point;
use crisp_sys::file::WHOLE_BYTES;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The extension of a file that is being written.
pub(crate) const UNFINISHED: &str = "new";

/// A directory that only root may enter.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(Error::io("make directory", path))
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a file so that a reader sees the old or the new one, never a part.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension(UNFINISHED);
    let replace = || {
        std::fs::write(&temporary, content).map_err(Error::io("write", &temporary))?;
        point!("record.written");
        crisp_sys::file::replace(path, &temporary).map_err(Error::io("replace", path))?;
        point!("record.renamed");
        Ok(())
    };
    replace().inspect_err(|_| {
        // What could not be written whole is often nothing but a file on a full disk.
        let _ = std::fs::remove_file(&temporary);
    })
}

/// Makes a file, all at once: whoever is killed meanwhile leaves none, an empty one or a whole one. Tells whether
/// it is done; what is not is for [`replace_file`]: there is a file, or it takes more than one write(2) does at once.
pub(crate) fn make_file(path: &Path, content: &[u8]) -> Result<bool> {
    if content.len() > WHOLE_BYTES {
        return Ok(false);
    }
    let mut file = match File::create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        made => made.map_err(Error::io("make", path))?,
    };
    point!("record.begun");
    let written = file.write_all(content).map_err(Error::io("write", path));
    written.inspect_err(|_| {
        // What could not be written is often nothing but an empty file on a full disk.
        let _ = std::fs::remove_file(path);
    })?;
    point!("record.made");
    Ok(true)
}

/// Removes what [`replace_file`] had not come to put in its place.
pub(crate) fn remove_unfinished(path: &Path) -> Result<()> {
    remove_file(&path.with_extension(UNFINISHED))
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Has files and directories outlive the host's power.
pub(crate) fn sync<const N: usize>(paths: [&Path; N]) -> Result<()> {
    for path in paths {
        let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
        synced.map_err(Error::io("sync", path))?;
    }
    Ok(())
}

/// The paths of what is in a directory; none if it is not there.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(Error::io("read", dir))?,
    };
    read.map(|entry| entry.map(|e| e.path()).map_err(Error::io("read", dir)))
        .collect()
}

/// The names of what is in a directory; none if it is not there.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into());
    Ok(entries(dir)?.into_iter().filter_map(name).collect())
}
