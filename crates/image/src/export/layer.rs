//! One unpacked layer as an archive: the opposite of `unpack`, with the same whiteouts, and without the
//! directories that the archive it came from did not describe. Which bytes it has depends on nothing but
//! the layer.

use crate::Error;
use crate::layers::{Layer, Layers};
use crate::pack::{Bounds, MAX_DEPTH, Packer, hides, is_opaque, too_much};
use crate::stack::{Directory, Node};
use crate::unpack::{MAX_ENTRIES, OPAQUE, WHITEOUT};
use nix::errno::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

/// Writes the whole archive and gives back where to. Blocks.
pub(super) fn write<W: Write>(
    layers: &Layers,
    layer: &Layer,
    to: W,
    until: Instant,
) -> Result<W, Error> {
    let dir = layers.lower_dir(layer.number);
    let root = Directory::root(std::slice::from_ref(&dir))?;
    let bounds = Bounds {
        bytes: u64::MAX,
        until,
    };
    let mut archive = Archive {
        packer: Packer::new(to, bounds),
        implicit: HashSet::from_iter(layers.implicit_dirs(layer)?),
        entries: usize::try_from(MAX_ENTRIES).unwrap_or(usize::MAX),
    };
    let walked = archive.root(layer, &root);
    walked
        .and_then(|()| archive.packer.finish())
        .map_err(|error| Error::io("archive", &dir, error))
}

struct Archive<W: Write> {
    packer: Packer<W>,
    /// Directories that have the attributes of the layers below.
    implicit: HashSet<Vec<u8>>,
    /// How many more there may be.
    entries: usize,
}

impl<W: Write> Archive<W> {
    fn root(&mut self, layer: &Layer, root: &Directory) -> io::Result<()> {
        if layer.record.root.is_some()
            && let Some(part) = root.parts.first()
        {
            self.packer.directory(Path::new("./"), part)?;
        }
        if layer.record.opaque_root {
            self.packer
                .empty_file(Path::new(OsStr::from_bytes(OPAQUE)))?;
        }
        self.walk(Path::new(""), root)
    }

    fn walk(&mut self, way: &Path, directory: &Directory) -> io::Result<()> {
        if way.components().count() > MAX_DEPTH {
            return Err(too_much("directories below each other"));
        }
        let names = match directory.names_within(self.entries) {
            Err(Errno::EOVERFLOW) => return Err(too_much("files")),
            names => names?,
        };
        self.entries -= names.len();
        for name in &names {
            self.packer.check_time()?;
            self.name(way, name, directory)?;
        }
        Ok(())
    }

    fn name(&mut self, way: &Path, name: &OsStr, directory: &Directory) -> io::Result<()> {
        let path = way.join(name);
        match directory.child(name)? {
            Some(Node::Directory(child)) => self.directory(&path, &child),
            Some(Node::Other { parent, stat, .. }) => {
                self.packer.entry(&path, &parent, name, &stat)
            }
            None if hides(directory, name) => {
                let marker = [WHITEOUT, name.as_bytes()].concat();
                self.packer
                    .empty_file(&way.join(OsStr::from_bytes(&marker)))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn directory(&mut self, path: &Path, directory: &Directory) -> io::Result<()> {
        if !self.implicit.contains(path.as_os_str().as_bytes())
            && let Some(part) = directory.parts.first()
        {
            self.packer.directory(path, part)?;
        }
        if is_opaque(directory) {
            self.packer
                .empty_file(&path.join(OsStr::from_bytes(OPAQUE)))?;
        }
        self.walk(path, directory)
    }
}
