//! What a container has changed in its root file system, as an archive: what it has made or written, and
//! the paths that it has deleted.
//!
//! The container may run meanwhile: what goes away before it is read is left out.

use crate::Error;
use crate::pack::{Bounds, MAX_DEPTH, Packer, has_gone, hides, is_opaque, too_much};
use crate::stack::{Directory, Node};
use nix::errno::Errno;
use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Names that are looked at in all. Those of a directory are in memory while it is archived, and some
/// paths until the end.
const MAX_ENTRIES: usize = 1 << 20;

/// Writes an archive of the changes to `to`, and gives the paths that are deleted, relative to the root.
/// What is at the paths in `left_out` is neither.
pub(crate) fn write(
    upper: &Path,
    lower: &[PathBuf],
    left_out: &HashSet<PathBuf>,
    to: File,
    bounds: Bounds,
) -> Result<Vec<PathBuf>, Error> {
    let (changed, image) = (
        Directory::root(&[upper.to_owned()])?,
        Directory::root(lower)?,
    );
    let mut changes = Changes {
        packer: Packer::new(io::BufWriter::new(to), bounds),
        left_out,
        entries: MAX_ENTRIES,
        deleted: Vec::new(),
    };
    let walked = changes.walk(Path::new(""), &changed, Some(&image), Image::Shows);
    let Changes {
        packer, deleted, ..
    } = changes;
    walked
        .and_then(|()| packer.finish())
        .map_err(|error| Error::io("archive what is changed in", upper, error))?;
    Ok(deleted)
}

/// Whether a directory of the image shows through the container's own in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Image {
    Shows,
    /// The container has deleted it, or one above, and made another.
    Hidden,
}

/// What is told of them so far.
struct Changes<'a> {
    packer: Packer<io::BufWriter<File>>,
    left_out: &'a HashSet<PathBuf>,
    /// How many more names are looked at.
    entries: usize,
    deleted: Vec<PathBuf>,
}

impl Changes<'_> {
    /// `image` is what the image has at the same place, if that is a directory.
    fn walk(
        &mut self,
        way: &Path,
        changed: &Directory,
        image: Option<&Directory>,
        above: Image,
    ) -> io::Result<()> {
        if way.components().count() > MAX_DEPTH {
            return Err(too_much("directories below each other"));
        }
        let here = match is_opaque(changed) {
            true => Image::Hidden,
            false => above,
        };
        for name in &self.names(changed)? {
            let path = way.join(name);
            if self.left_out.contains(&path) {
                continue;
            }
            self.packer.check_time()?;
            match self.name(&path, name, changed, image, here) {
                Err(error) if has_gone(&error) => {}
                done => done?,
            }
        }
        match (image, here) {
            (Some(image), Image::Hidden) => self.delete_others(way, changed, image),
            _ => Ok(()),
        }
    }

    /// What the container has of one name in a directory.
    fn name(
        &mut self,
        path: &Path,
        name: &OsStr,
        changed: &Directory,
        image: Option<&Directory>,
        here: Image,
    ) -> io::Result<()> {
        let before = image.map_or(Ok(None), |image| image.child(name))?;
        match (changed.child(name)?, before) {
            (None, Some(_)) if hides(changed, name) => self.delete(path.to_owned()),
            (None, _) => Ok(()),
            (Some(Node::Directory(directory)), Some(Node::Directory(before))) => {
                self.directory(path, &directory, Some(&before), here)
            }
            (Some(Node::Directory(directory)), _) => self.directory(path, &directory, None, here),
            (Some(Node::Other { parent, stat, .. }), _) => {
                self.packer.entry(path, &parent, name, &stat)
            }
        }
    }

    fn names(&mut self, directory: &Directory) -> io::Result<BTreeSet<OsString>> {
        let names = match directory.names_within(self.entries) {
            Err(Errno::EOVERFLOW) => return Err(too_much("files")),
            names => names?,
        };
        self.entries -= names.len();
        Ok(names)
    }

    fn delete(&mut self, path: PathBuf) -> io::Result<()> {
        self.packer.remember(&path)?;
        self.deleted.push(path);
        Ok(())
    }

    fn directory(
        &mut self,
        path: &Path,
        changed: &Directory,
        image: Option<&Directory>,
        above: Image,
    ) -> io::Result<()> {
        if let Some(part) = changed.parts.first() {
            self.packer.directory(path, part)?;
        }
        self.walk(path, changed, image, above)
    }

    /// A directory that was made anew has nothing of the one that the image has in its place.
    fn delete_others(
        &mut self,
        way: &Path,
        changed: &Directory,
        image: &Directory,
    ) -> io::Result<()> {
        for name in self.names(image)? {
            self.packer.check_time()?;
            let path = way.join(&name);
            // A whiteout was met already.
            let is_missing = matches!(changed.child(&name), Ok(None)) && !hides(changed, &name);
            if is_missing && image.child(&name)?.is_some() {
                self.delete(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
