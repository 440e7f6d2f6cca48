//! What a container has changed in its root file system, as an archive: what it has made or written, and
//! the paths that it has deleted.
//!
//! A container's directory is as hostile as a layer: all goes by file descriptor and one name at a time,
//! and no symbolic link is followed.

use crate::Error;
use crate::attributes::Attributes;
use crate::stack::{Directory, Node, Part};
use crate::tree::kind_of;
use crate::unpack::opaque_xattr;
use ::tar::{Builder, EntryType, Header};
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, major, minor};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Directories below each other: each holds descriptors while what is in it is archived.
const MAX_DEPTH: usize = 256;

/// How much of a container's changes is taken.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of all files as they seem: a sparse one takes no more space on disk than it has data.
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
            return Err(Errno::ELOOP.into());
        }
        let here = match is_opaque(changed) {
            true => Image::Hidden,
            false => above,
        };
        for name in &changed.names()? {
            let path = way.join(name);
            if self.left_out.contains(&path) {
                continue;
            }
            let before = image.map_or(Ok(None), |image| image.child(name))?;
            match changed.child(name)? {
                None if before.is_some() => self.deleted.push(path),
                None => {}
                Some(Node::Directory(directory)) => {
                    let before = match &before {
                        Some(Node::Directory(before)) => Some(before),
                        _ => None,
                    };
                    self.directory(&path, &directory, before, here)?;
                }
                Some(Node::Other { parent, stat, .. }) => {
                    self.entry(&path, &parent, name, &stat)?;
                }
            }
        }
        match (image, here) {
            (Some(image), Image::Hidden) => self.delete_others(way, changed, image),
            _ => Ok(()),
        }
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
        for name in image.names()? {
            if changed.child(&name)?.is_none() && image.child(&name)?.is_some() {
                self.deleted.push(way.join(name));
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
        if stat.st_nlink > 1 {
            let first = self.linked.entry((stat.st_dev, stat.st_ino));
            if let std::collections::hash_map::Entry::Occupied(first) = first {
                let mut header = header(EntryType::Link, &plain);
                return self.archive.append_link(&mut header, path, first.get());
            }
            first.or_insert_with(|| path.to_owned());
        }
        let special = match kind_of(stat) {
            SFlag::S_IFREG => return self.file(path, parent, name),
            SFlag::S_IFLNK => {
                let target = readlinkat(&*parent.fd, name)?;
                let mut header = header(EntryType::Symlink, &plain);
                return self.archive.append_link(&mut header, path, target);
            }
            SFlag::S_IFCHR => EntryType::Char,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFIFO => EntryType::Fifo,
            // A socket: an archive has none, and whoever listened on it does no more.
            _ => return Ok(()),
        };
        let mut header = header(special, &plain);
        let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        header.set_device_major(number(major(stat.st_rdev)))?;
        header.set_device_minor(number(minor(stat.st_rdev)))?;
        self.append(&plain, &mut header, path, io::empty())
    }

    fn file(&mut self, path: &Path, parent: &Part, name: &OsStr) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd: OwnedFd = openat(&*parent.fd, name, flags, Mode::empty())?;
        let attributes = Attributes::read(&fd)?;
        let file = File::from(fd);
        let size = file.metadata()?.len();
        let left = self.bounds.bytes.checked_sub(size);
        self.bounds.bytes = left.ok_or(io::ErrorKind::StorageFull)?;
        let mut header = header(EntryType::Regular, &attributes);
        header.set_size(size);
        // Who writes to it in spite of all changes its length: what is missing is zero.
        let content = Timely::new(file.chain(io::repeat(0)).take(size), self.bounds.until);
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
        if !names.is_empty() {
            let records = names.iter().map(|(name, value)| (name.as_str(), *value));
            self.archive.append_pax_extensions(records)?;
        }
        self.archive.append_data(header, path, content)
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

impl<R: Read> Timely<R> {
    pub fn new(content: R, until: Instant) -> Self {
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
    use std::collections::BTreeMap;
    use std::fs::create_dir_all;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::Duration;

    fn write_file(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn whiteout(path: &Path) {
        use nix::sys::stat::mknodat;
        mknodat(nix::fcntl::AT_FDCWD, path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    }

    fn make_opaque(path: &Path) {
        xattr::set(File::open(path).unwrap(), opaque_xattr(), b"y").unwrap();
    }

    /// What an archive says of each path: its kind, and its content or target.
    fn read(archive: &Path) -> BTreeMap<String, (EntryType, String)> {
        let mut archive = ::tar::Archive::new(File::open(archive).unwrap());
        let entries = archive.entries().unwrap();
        let entries = entries.map(|entry| {
            let mut entry = entry.unwrap();
            let (path, kind) = (
                entry.path().unwrap().into_owned(),
                entry.header().entry_type(),
            );
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            if let Some(target) = entry.link_name().unwrap() {
                text = target.display().to_string();
            }
            (path.display().to_string(), (kind, text))
        });
        entries.collect()
    }

    #[test]
    fn what_was_made_is_archived_and_what_was_deleted_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        for path in [
            "etc/passwd",
            "gone/file",
            "anew/old",
            "anew/sub/old",
            "kept",
        ] {
            write_file(&lower, path, "image");
        }
        for path in ["etc/new", "anew/sub/new", "proc/x", "secret"] {
            write_file(&upper, path, path);
        }
        whiteout(&upper.join("gone"));
        whiteout(&upper.join("never-there"));
        make_opaque(&upper.join("anew"));
        symlink("/secret", upper.join("link")).unwrap();
        std::fs::hard_link(upper.join("secret"), upper.join("second")).unwrap();
        std::fs::set_permissions(upper.join("secret"), PermissionsExt::from_mode(0o4750)).unwrap();
        let path = dir.path().join("tar");
        let bounds = |bytes| Bounds {
            bytes,
            until: Instant::now() + Duration::from_secs(60),
        };
        let left_out = HashSet::from([PathBuf::from("proc")]);
        let archive = |bounds| {
            let file = File::create(&path).unwrap();
            write(
                &upper,
                std::slice::from_ref(&lower),
                &left_out,
                file,
                bounds,
            )
        };
        let mut deleted = archive(bounds(1000)).unwrap();
        deleted.sort();
        assert_eq!(
            deleted,
            ["anew/old", "anew/sub/old", "gone"].map(PathBuf::from)
        );
        let found = read(&path);
        let expect = |path: &str, kind, text: &str| {
            assert_eq!(found[path], (kind, text.to_owned()), "{path}");
        };
        expect("etc/new", EntryType::Regular, "etc/new");
        expect("anew/sub/new", EntryType::Regular, "anew/sub/new");
        expect("link", EntryType::Symlink, "/secret");
        expect("second", EntryType::Regular, "secret");
        expect("secret", EntryType::Link, "second");
        let others = ["etc", "anew", "anew/sub"].map(|path| found[path].0);
        assert_eq!(others, [EntryType::Directory; 3]);
        assert_eq!(found.len(), 8, "{found:?}");
        let full = archive(bounds(10)).unwrap_err();
        assert!(matches!(full, Error::NoSpace { .. }), "{full}");
        let late = Bounds {
            bytes: 1000,
            until: Instant::now() - Duration::from_secs(1),
        };
        assert!(archive(late).is_err());
        assert_eq!(std::fs::metadata(upper.join("secret")).unwrap().nlink(), 2);
    }
}
