//! Reading and writing the kernel's small files.
//!
//! Files are opened without `O_CREAT` and `O_TRUNC`: a file that is missing is then `ENOENT`, whatever
//! file system stands in for cgroups, and a value is one `write(2)`, as cgroup files want it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Fits nearly every file of a cgroup in one `read(2)`.
const BUFFER_BYTES: usize = 4096;

/// Where a walk through nested cgroups stops; it ends a walk that somebody feeds while it goes.
const MAX_DESCENDANTS: usize = 65_536;

/// A file that tells one thing, as all do but lists of processes: of it, one `read(2)` gives as much as
/// there is room for (seq_file in the kernel), so that less is all.
pub(crate) fn read(dir: &Path, name: &str) -> io::Result<String> {
    content(&File::open(dir.join(name))?)
}

/// The same of one that was just opened.
pub(crate) fn content(mut file: &File) -> io::Result<String> {
    let mut content = Vec::new();
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        content.extend_from_slice(&buffer[..length]);
        if length < BUFFER_BYTES {
            break;
        }
    }
    String::from_utf8(content).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A file with a line for each of many things.
pub(crate) fn read_list(dir: &Path, name: &str) -> io::Result<String> {
    fs::read_to_string(dir.join(name))
}

/// One value.
pub(crate) fn write(dir: &Path, name: &str, value: &str) -> io::Result<()> {
    open_for_writing(dir, name)?.write_all(value.as_bytes())
}

/// For several values in a row.
pub(crate) fn open_for_writing(dir: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(dir.join(name))
}

/// The directories in `dir`: the children of a cgroup. Symbolic links are not followed.
pub(crate) fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    // Two links, its name and `.`: no child has a `..` to it. Cheaper than listing thirty files.
    if fs::symlink_metadata(dir)?.nlink() == 2 {
        return Ok(children);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// Whether the error says that the file, or the cgroup it belongs to, is not there (any more).
pub(crate) fn is_gone(error: &io::Error) -> bool {
    is(error, Errno::ENOENT) || is(error, Errno::ENODEV)
}

/// Whether the error is that one of the kernel.
pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// The names of all that is in `dir`.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into());
    fs::read_dir(dir)?.map(name).collect()
}

/// The cgroups below `dir`, parents first; those that go away meanwhile are passed over.
pub(crate) fn descendants(dir: &Path) -> Vec<PathBuf> {
    let mut found = children(dir).unwrap_or_default();
    let mut next = 0;
    while next < found.len() && found.len() < MAX_DESCENDANTS {
        let below = children(&found[next]).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1] {
            let text = "x".repeat(length);
            fs::write(dir.path().join("file"), &text).unwrap();
            assert_eq!(read(dir.path(), "file").unwrap(), text, "{length} bytes");
        }
    }
}
