//! What a container has changed in its root file system, as an archive: what it has made or written, and
//! the paths that it has deleted.
//!
//! A container's directory is as hostile as a layer: all goes by file descriptor and one name at a time,
//! and no symbolic link is followed. The container may run meanwhile: what goes away before it is read is
//! left out.

use crate::Error;
use crate::attributes::Attributes;
use crate::stack::{Directory, Node, Part};
use crate::tree::kind_of;
use crate::unpack::{is_whiteout, opaque_xattr};
use ::tar::{Builder, EntryType, Header};
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Directories below each other: each holds descriptors while what is in it is archived.
const MAX_DEPTH: usize = 256;

/// Names that are looked at in all. Those of a directory are in memory while it is archived, and some
/// paths until the end.
const MAX_ENTRIES: usize = 1 << 20;

/// The paths that are in memory until the end, in bytes.
const MAX_PATH_BYTES: usize = 64 << 20;

/// A block of an archive; all in it begins with one, in bytes (tar(5)).
const BLOCK_BYTES: u64 = 512;

/// What the record of an extended attribute has beside its name and value, at the most, in bytes.
const XATTR_RECORD_BYTES: u64 = 32;

/// The blocks of an entry beside its content, its attributes and its path: those that fill each of them
/// up, and their headers.
const BLOCKS_PER_ENTRY: u64 = 6;

/// How much of a container's changes is taken.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of the archive. A hole in a file counts, because it is written as zeroes.
    pub bytes: u64,
    pub until: Instant,
}

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
        archive: Builder::new(io::BufWriter::new(to)),
        left_out,
        bounds,
        entries: MAX_ENTRIES,
        path_bytes: MAX_PATH_BYTES,
        deleted: Vec::new(),
        linked: HashMap::new(),
    };
    let walked = changes.walk(Path::new(""), &changed, Some(&image), Image::Shows);
    let deleted = std::mem::take(&mut changes.deleted);
    walked
        .and_then(|()| changes.archive.into_inner()?.flush())
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

/// An archive that is being written.
struct Changes<'a> {
    archive: Builder<io::BufWriter<File>>,
    left_out: &'a HashSet<PathBuf>,
    /// What is left of them.
    bounds: Bounds,
    entries: usize,
    path_bytes: usize,
    deleted: Vec<PathBuf>,
    /// Files with several names that are archived already: device and inode, and their first name.
    linked: HashMap<(u64, u64), PathBuf>,
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
            self.check_time()?;
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
            (Some(Node::Other { parent, stat, .. }), _) => self.entry(path, &parent, name, &stat),
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
        self.remember(&path)?;
        self.deleted.push(path);
        Ok(())
    }

    /// Before a path is kept until the end.
    fn remember(&mut self, path: &Path) -> io::Result<()> {
        let left = self.path_bytes.checked_sub(path.as_os_str().len());
        self.path_bytes = left.ok_or_else(|| too_much("deleted or linked files"))?;
        Ok(())
    }

    fn check_time(&self) -> io::Result<()> {
        match Instant::now() > self.bounds.until {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    /// Before an entry is written that has so many bytes beside its path.
    fn charge(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let beside = BLOCKS_PER_ENTRY * BLOCK_BYTES + path.as_os_str().len() as u64;
        let left = self.bounds.bytes.checked_sub(bytes.saturating_add(beside));
        self.bounds.bytes = left.ok_or(io::ErrorKind::StorageFull)?;
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
            let attributes = Attributes::read(&part.fd)?;
            let mut header = header(EntryType::Directory, &attributes);
            self.append(&attributes, &mut header, path, io::empty())?;
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
            self.check_time()?;
            let path = way.join(&name);
            // A whiteout was met already.
            let is_missing = matches!(changed.child(&name), Ok(None)) && !hides(changed, &name);
            if is_missing && image.child(&name)?.is_some() {
                self.delete(path)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &Path,
        parent: &Part,
        name: &OsStr,
        stat: &FileStat,
    ) -> io::Result<()> {
        let plain = Attributes {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Some(crate::attributes::modified(stat)),
            xattrs: Vec::new(),
        };
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&identity).cloned() {
            return self.link(path, &mut header(EntryType::Link, &plain), &first);
        }
        match kind_of(stat) {
            SFlag::S_IFREG => self.file(path, parent, name)?,
            SFlag::S_IFLNK => {
                let target = readlinkat(&*parent.fd, name)?;
                let mut header = header(EntryType::Symlink, &plain);
                self.link(path, &mut header, Path::new(&target))?;
            }
            SFlag::S_IFCHR => self.device(path, EntryType::Char, &plain, stat)?,
            SFlag::S_IFBLK => self.device(path, EntryType::Block, &plain, stat)?,
            SFlag::S_IFIFO => self.device(path, EntryType::Fifo, &plain, stat)?,
            // A socket: an archive has none, and whoever listened on it does no more.
            _ => return Ok(()),
        }
        if stat.st_nlink > 1 {
            self.remember(path)?;
            self.linked.insert(identity, path.to_owned());
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, header: &mut Header, target: &Path) -> io::Result<()> {
        self.charge(path, target.as_os_str().len() as u64)?;
        let written = self.archive.append_link(header, path, target);
        written.map_err(of_archive)
    }

    fn device(
        &mut self,
        path: &Path,
        kind: EntryType,
        attributes: &Attributes,
        stat: &FileStat,
    ) -> io::Result<()> {
        let mut header = header(kind, attributes);
        let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        header.set_device_major(number(major(stat.st_rdev)))?;
        header.set_device_minor(number(minor(stat.st_rdev)))?;
        self.append(attributes, &mut header, path, io::empty())
    }

    fn file(&mut self, path: &Path, parent: &Part, name: &OsStr) -> io::Result<()> {
        let fd = open_regular(parent, name)?;
        let attributes = Attributes::read(&fd)?;
        let file = File::from(fd);
        let size = file.metadata()?.len();
        let mut header = header(EntryType::Regular, &attributes);
        header.set_size(size);
        let content = Timely::of_file(file, size, self.bounds.until);
        self.append(&attributes, &mut header, path, content)
    }

    fn append(
        &mut self,
        attributes: &Attributes,
        header: &mut Header,
        path: &Path,
        content: impl Read,
    ) -> io::Result<()> {
        let names = attributes.xattrs.iter().filter_map(|(name, value)| {
            let name = name.to_str().ok()?;
            Some((format!("SCHILY.xattr.{name}"), value.as_slice()))
        });
        let names: Vec<_> = names.collect();
        let sizes = attributes
            .xattrs
            .iter()
            .map(|(name, value)| (name.as_bytes().len() + value.len()) as u64 + XATTR_RECORD_BYTES);
        self.charge(path, sizes.sum::<u64>().saturating_add(header.size()?))?;
        if !names.is_empty() {
            let records = names.iter().map(|(name, value)| (name.as_str(), *value));
            let written = self.archive.append_pax_extensions(records);
            written.map_err(of_archive)?;
        }
        let written = self.archive.append_data(header, path, content);
        written.map_err(of_archive)
    }
}

fn header(kind: EntryType, attributes: &Attributes) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(attributes.mode);
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    let modified = attributes.mtime.as_ref();
    let modified = modified.and_then(|mtime| u64::try_from(mtime.tv_sec()).ok());
    header.set_mtime(modified.unwrap_or_default());
    header.set_size(0);
    header
}

/// Opens what is a regular file for certain: whoever runs in the container may have put something else
/// in its place, and to open a device can do harm.
fn open_regular(parent: &Part, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = openat(&*parent.fd, name, flags, Mode::empty())?;
    if kind_of(&fstat(&found)?) != SFlag::S_IFREG {
        return Err(Errno::ENOENT);
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty())
}

/// Whether the container has deleted what the image has of a name, rather than that it has gone just now.
fn hides(directory: &Directory, name: &OsStr) -> bool {
    let mut parts = directory.parts.iter();
    parts.any(|part| {
        let stat = fstatat(&*part.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| is_whiteout(&stat))
    })
}

/// Whether there was nothing of a name, or something else than a moment before.
fn has_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        // The last is of a symbolic link that is none any more.
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO | Errno::EINVAL)
    )
}

/// Of what is written only in part nobody may think that it [has gone](has_gone).
fn of_archive(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), error)
}

fn too_much(what: &str) -> io::Error {
    io::Error::other(format!("there are too many {what}"))
}

fn is_opaque(directory: &Directory) -> bool {
    let value = directory
        .parts
        .first()
        .map(|part| xattr::get(&part.fd, opaque_xattr()));
    matches!(value, Some(Ok(Some(value))) if value == b"y")
}

/// Content that is read for a bounded time.
#[derive(Debug)]
pub struct Timely<R> {
    content: R,
    until: Instant,
}

impl Timely<io::Take<io::Chain<File, io::Repeat>>> {
    /// So many bytes of a file, of which somebody may change the length in spite of all: what it lacks is
    /// zero.
    pub fn of_file(file: File, size_bytes: u64, until: Instant) -> Self {
        let content = file.chain(io::repeat(0)).take(size_bytes);
        Self { content, until }
    }
}

impl<R: Read> Read for Timely<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match Instant::now() > self.until {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => self.content.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests;
