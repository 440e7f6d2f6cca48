//! Writing what is in a directory into an archive (tar(5), with pax records for extended attributes).
//!
//! The directory is as hostile as a layer: all goes by file descriptor and one name at a time, and no
//! symbolic link is followed. Somebody may write to it meanwhile: what goes away before it is read is an
//! error that [`has_gone`] tells from others.

use crate::attributes::{self, Attributes};
use crate::stack::{Directory, Part};
use crate::tree::kind_of;
use crate::unpack::{is_whiteout, opaque_xattr};
use ::tar::{Builder, EntryType, Header};
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Directories below each other: each holds descriptors while what is in it is archived.
pub(crate) const MAX_DEPTH: usize = 256;

/// The paths that are in memory until the end, in bytes.
const MAX_PATH_BYTES: usize = 64 << 20;

/// A block of an archive; all in it begins with one, in bytes (tar(5)).
pub(crate) const BLOCK_BYTES: u64 = 512;

/// What the record of an extended attribute has beside its name and value, at the most, in bytes.
const XATTR_RECORD_BYTES: u64 = 32;

/// The blocks of an entry beside its content, its attributes and its path: those that fill each of them
/// up, and their headers.
const BLOCKS_PER_ENTRY: u64 = 6;

/// How much is archived at the most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of the archive. A hole in a file counts, because it is written as zeroes.
    pub bytes: u64,
    pub until: Instant,
}

/// An archive that is being written.
pub(crate) struct Packer<W: Write> {
    archive: Builder<W>,
    /// What is left of them.
    bounds: Bounds,
    path_bytes: usize,
    /// Files with several names that are archived already: device and inode, and their first name.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(to: W, bounds: Bounds) -> Self {
        Self {
            archive: Builder::new(to),
            bounds,
            path_bytes: MAX_PATH_BYTES,
            linked: HashMap::new(),
        }
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<W> {
        let mut to = self.archive.into_inner()?;
        to.flush()?;
        Ok(to)
    }

    /// Before a path is kept until the end.
    pub(crate) fn remember(&mut self, path: &Path) -> io::Result<()> {
        let left = self.path_bytes.checked_sub(path.as_os_str().len());
        self.path_bytes = left.ok_or_else(|| too_much("deleted or linked files"))?;
        Ok(())
    }

    pub(crate) fn check_time(&self) -> io::Result<()> {
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

    /// A directory, without what is in it.
    pub(crate) fn directory(&mut self, path: &Path, directory: &Part) -> io::Result<()> {
        let attributes = Attributes::read(&directory.fd)?;
        let mut header = header(EntryType::Directory, &attributes);
        self.append(&attributes, &mut header, path, io::empty())
    }

    /// An empty file of root's.
    pub(crate) fn empty_file(&mut self, path: &Path) -> io::Result<()> {
        let plain = Attributes {
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: None,
            xattrs: Vec::new(),
        };
        let mut header = header(EntryType::Regular, &plain);
        self.append(&plain, &mut header, path, io::empty())
    }

    /// Anything but a directory.
    pub(crate) fn entry(
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
            mtime: Some(attributes::modified(stat)),
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
            let is_archived = attributes::is_archived(name.as_bytes());
            is_archived.then(|| (format!("SCHILY.xattr.{name}"), value.as_slice()))
        });
        let names: Vec<_> = names.collect();
        let sizes = names
            .iter()
            .map(|(name, value)| (name.len() + value.len()) as u64 + XATTR_RECORD_BYTES);
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

/// Whether a directory has a whiteout of this name.
pub(crate) fn hides(directory: &Directory, name: &OsStr) -> bool {
    let mut parts = directory.parts.iter();
    parts.any(|part| {
        let stat = fstatat(&*part.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| is_whiteout(&stat))
    })
}

/// Whether a directory hides the one below it.
pub(crate) fn is_opaque(directory: &Directory) -> bool {
    let value = directory
        .parts
        .first()
        .map(|part| xattr::get(&part.fd, opaque_xattr()));
    matches!(value, Some(Ok(Some(value))) if value == b"y")
}

/// Whether there was nothing of a name, or something else than a moment before.
pub(crate) fn has_gone(error: &io::Error) -> bool {
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

pub(crate) fn too_much(what: &str) -> io::Error {
    io::Error::other(format!("there are too many {what}"))
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
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    #[test]
    fn labels_of_the_host_do_not_leave_it() {
        let names = [
            "user.note",
            "security.selinux",
            "security.capability",
            "trusted.x",
        ];
        let xattrs = names.map(|name| (CString::new(name).unwrap(), b"1".to_vec()));
        let attributes = Attributes {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
            xattrs: xattrs.into(),
        };
        let bounds = Bounds {
            bytes: u64::MAX,
            until: Instant::now() + Duration::from_secs(60),
        };
        let mut packer = Packer::new(Vec::new(), bounds);
        let mut header = header(EntryType::Regular, &attributes);
        let path = Path::new("file");
        packer
            .append(&attributes, &mut header, path, io::empty())
            .unwrap();
        let archive = packer.finish().unwrap();
        let mut archive = ::tar::Archive::new(archive.as_slice());
        let mut file = archive.entries().unwrap().next().unwrap().unwrap();
        let records = file.pax_extensions().unwrap().unwrap();
        let names: Vec<_> = records
            .map(|record| record.unwrap().key().unwrap().to_owned())
            .collect();
        let archived = ["SCHILY.xattr.user.note", "SCHILY.xattr.security.capability"];
        assert_eq!(names, archived);
    }

    #[test]
    fn what_is_no_regular_file_any_more_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        let root = Directory::root(&[dir.path().to_owned()]).unwrap();
        let open = |name| open_regular(&root.parts[0], OsStr::new(name));
        assert!(open("file").is_ok());
        for other in ["pipe", "link", "missing"] {
            assert_eq!(open(other).unwrap_err(), Errno::ENOENT, "{other}");
        }
        assert!(has_gone(&Errno::ENOENT.into()) && !has_gone(&too_much("files")));
        assert_eq!(root.names_within(2), Err(Errno::EOVERFLOW));
        assert_eq!(root.names_within(3).map(|names| names.len()), Ok(3));
    }
}
