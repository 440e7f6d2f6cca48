//! Unpacking one layer into a directory of its own, in the form that overlayfs stacks.
//!
//! The archive is hostile. Every path is resolved by the kernel beneath the directory's descriptor
//! (openat2, `RESOLVE_BENEATH`), and what would leave it is refused. Nobody else can reach the directory
//! while it is written, so only the archive's own entries can lay traps for each other.
//!
//! A whiteout becomes a character device 0/0 and an opaque directory gets overlayfs's attribute (kernel,
//! filesystems/overlayfs.rst, "whiteouts and opaque directories"). The attributes of directories are
//! applied at the end: until then they have no setgid bit or default access list that would be inherited
//! by what is made in them, and no mode that would keep an unprivileged process out.

mod attributes;
mod directories;
mod path;

use crate::sums::{self, Coverage};
use crate::tar::{self, Archive, Entry, Kind, Sparse};
use crate::tree::kind_of;
use attributes::{Attributes, os};
use crisp_sys::xattr;
use directories::Directories;
use flate2::Crc;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, makedev, mknodat};
use nix::unistd::{geteuid, linkat, symlinkat};
pub(crate) use path::{OPAQUE, WHITEOUT};
use path::{Path, Target};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

/// The most entries of one layer.
pub(crate) const MAX_ENTRIES: u64 = 4_000_000;
/// Files take whole blocks of this size, about.
const BLOCK_BYTES: u64 = 4096;

/// Devices that every container has anyway, and that base images used to hold: null, zero, full, random,
/// urandom, tty, console, ptmx (kernel, admin-guide/devices.txt).
const HARMLESS_DEVICES: [(u64, u64); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Archive(#[from] tar::Error),
    #[error("{path:?}: {reason}")]
    Refused { path: String, reason: &'static str },
    #[error("cannot {op} {path:?}")]
    Io {
        op: &'static str,
        path: String,
        #[source]
        errno: Errno,
    },
}

impl Error {
    fn refused(path: &[u8], reason: &'static str) -> Self {
        Self::Refused {
            path: shown(path),
            reason,
        }
    }

    fn io(op: &'static str, path: &[u8], errno: Errno) -> Self {
        Self::Io {
            op,
            path: shown(path),
            errno,
        }
    }
}

/// The beginning of a path, for messages.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// On disk, about.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories that the archive has things in but does not describe: they have the attributes of the
    /// layers below. Sorted.
    pub(crate) implicit_dirs: Vec<Vec<u8>>,
    /// The attributes of the root, if the archive describes it.
    pub(crate) root: Option<RootAttributes>,
    /// The layers below are hidden altogether.
    pub(crate) opaque_root: bool,
    /// What its checksums speak of.
    pub(crate) sums: Coverage,
}

/// Owner and mode of a layer's root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootAttributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The attribute that makes a directory opaque. An unprivileged process has to use the second (and mount
/// with `userxattr`).
pub(crate) fn opaque_xattr() -> &'static CStr {
    if geteuid().is_root() {
        c"trusted.overlay.opaque"
    } else {
        c"user.overlay.opaque"
    }
}

/// Whether overlayfs takes this for a whiteout.
pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// Unpacks the whole archive below `root`, an empty directory. The checksums of its files go to `sums`.
pub(crate) fn unpack<R: BufRead>(
    reader: R,
    root: OwnedFd,
    sums: sums::Writer,
) -> Result<Unpacked, Error> {
    let mut archive = Archive::new(reader);
    let mut unpacker = Unpacker::new(root, sums);
    while let Some(entry) = archive.next_entry()? {
        unpacker.add(&entry, &mut archive)?;
    }
    archive.finish()?;
    unpacker.finish()
}

struct Unpacker {
    directories: Directories,
    sums: sums::Writer,
    entries: u64,
    unpacked: Unpacked,
}

impl Unpacker {
    fn new(root: OwnedFd, sums: sums::Writer) -> Self {
        Self {
            directories: Directories::new(root),
            sums,
            entries: 0,
            unpacked: Unpacked::default(),
        }
    }

    fn add<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Error::refused(
                &entry.path,
                "the layer has too many entries",
            ));
        }
        match Target::parse(&entry.path)? {
            Target::Ignored => Ok(()),
            Target::Root => self.describe_root(entry),
            Target::Whiteout(path) => self.hide(&path),
            Target::Opaque(directory) => self.hide_below(&directory),
            Target::Path(path) => match entry.kind {
                Kind::Directory => self.add_directory(&path, entry),
                Kind::File => self.add_file(&path, entry, archive),
                Kind::Symlink => self.add_symlink(&path, entry),
                Kind::HardLink => self.add_hard_link(&path, entry),
                Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.add_node(&path, entry),
            },
        }
    }

    fn describe_root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(Error::refused(&entry.path, "the root is not a directory"));
        }
        let attributes = Attributes::of(entry)?;
        let Attributes { mode, uid, gid, .. } = attributes;
        self.unpacked.root = Some(RootAttributes { mode, uid, gid });
        self.directories.describe(Vec::new(), attributes)
    }

    fn add_directory(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        let attributes = Attributes::of(entry)?;
        let parent = self.directories.open(&path.parent)?;
        self.directories.make(&parent, path)?;
        self.directories.describe(path.whole(), attributes)
    }

    fn add_file<R: BufRead>(
        &mut self,
        path: &Path,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Error> {
        let attributes = Attributes::of(entry)?;
        let parent = self.directories.open(&path.parent)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = self.replacing(&parent, path, "make the file", || {
            openat(&*parent, os(&path.name), flags, mode)
        })?;
        let file = File::from(file);
        let crc = write_data(&file, entry, archive)?;
        self.keep_sum(&file, crc)
            .map_err(|error| io_error("write the checksum of", entry, &error))?;
        self.count(entry.size_bytes);
        attributes
            .apply_to_file(&file)
            .map_err(|(op, errno)| Error::io(op, &entry.path, errno))
    }

    fn add_symlink(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(Error::refused(
                &entry.path,
                "the target of the symbolic link is malformed",
            ));
        }
        let attributes = Attributes::of(entry)?;
        let parent = self.directories.open(&path.parent)?;
        self.replacing(&parent, path, "make the symbolic link", || {
            symlinkat(os(&entry.link), &*parent, os(&path.name))
        })?;
        self.count(0);
        attributes
            .apply_to_link(parent.as_fd(), os(&path.name))
            .map_err(|(op, errno)| Error::io(op, &entry.path, errno))
    }

    /// Only to what this layer holds: there is nothing else beneath the root.
    fn add_hard_link(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        let target = path::parse_link(&entry.link)?;
        if target == *path {
            return Err(Error::refused(&entry.path, "it is a hard link to itself"));
        }
        let target_parent = self.directories.existing(&target)?;
        let stat = stat_at(&target_parent, &target).map_err(|_| dangling(&entry.path))?;
        if kind_of(&stat) == SFlag::S_IFDIR || is_whiteout(&stat) {
            return Err(Error::refused(
                &entry.path,
                "it is a hard link to a directory or a whiteout",
            ));
        }
        let parent = self.directories.open(&path.parent)?;
        self.replacing(&parent, path, "make the hard link", || {
            linkat(
                &*target_parent,
                os(&target.name),
                &*parent,
                os(&path.name),
                AtFlags::empty(),
            )
        })
    }

    fn add_node(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        let (kind, device) = match entry.kind {
            Kind::Fifo => (SFlag::S_IFIFO, 0),
            Kind::CharDevice if HARMLESS_DEVICES.contains(&entry.device) => {
                (SFlag::S_IFCHR, makedev(entry.device.0, entry.device.1))
            }
            _ => return Err(Error::refused(&entry.path, "it is a device")),
        };
        let attributes = Attributes::of(entry)?;
        let parent = self.directories.open(&path.parent)?;
        self.replacing(&parent, path, "make the node", || {
            mknodat(&*parent, os(&path.name), kind, Mode::empty(), device)
        })?;
        self.count(0);
        attributes
            .apply_to_node(parent.as_fd(), os(&path.name))
            .map_err(|(op, errno)| Error::io(op, &entry.path, errno))
    }

    /// A whiteout hides what is below this layer, not what this layer itself puts there.
    fn hide(&mut self, path: &Path) -> Result<(), Error> {
        let parent = self.directories.open(&path.parent)?;
        match mknodat(&*parent, os(&path.name), SFlag::S_IFCHR, Mode::empty(), 0) {
            Ok(()) => {
                self.count(0);
                Ok(())
            }
            Err(Errno::EEXIST) => match kind_of(&stat_at(&parent, path)?) {
                SFlag::S_IFDIR => set_opaque(&parent, path),
                _ => Ok(()),
            },
            Err(errno) => Err(Error::io("make the whiteout", &path.whole(), errno)),
        }
    }

    fn hide_below(&mut self, directory: &[u8]) -> Result<(), Error> {
        if directory.is_empty() {
            self.unpacked.opaque_root = true;
            return Ok(());
        }
        self.directories.open(directory)?;
        self.directories.set_opaque(directory)
    }

    /// Makes something; what is in its place goes first.
    fn replacing<T>(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        op: &'static str,
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T, Error> {
        let made = match make() {
            Err(Errno::EEXIST) => {
                self.directories.remove(parent, path)?;
                make()
            }
            result => result,
        };
        made.map_err(|errno| Error::io(op, &path.whole(), errno))
    }

    fn keep_sum(&mut self, file: &File, crc: Option<u32>) -> std::io::Result<()> {
        let metadata = file.metadata()?;
        self.sums.add(metadata.ino(), metadata.len(), crc)
    }

    fn count(&mut self, bytes: u64) {
        self.unpacked.inodes += 1;
        self.unpacked.bytes += bytes.next_multiple_of(BLOCK_BYTES);
    }

    fn finish(mut self) -> Result<Unpacked, Error> {
        self.unpacked.inodes += self.directories.made();
        let sums = self.sums.finish().map_err(|error| Error::Io {
            op: "write",
            path: sums::FILE.to_owned(),
            errno: errno_of(&error),
        })?;
        self.unpacked.sums = match (sums, self.directories.removals()) {
            (false, _) => Coverage::Nothing,
            (true, 0) => Coverage::Whole,
            (true, _) => Coverage::WithReplaced,
        };
        self.unpacked.implicit_dirs = self.directories.finish()?;
        Ok(self.unpacked)
    }
}

/// Gives the checksum of what was written, but of a sparse file.
fn write_data<R: BufRead>(
    file: &File,
    entry: &Entry,
    archive: &mut Archive<R>,
) -> Result<Option<u32>, Error> {
    let mut crc = Crc::new();
    let Some(Sparse {
        segments,
        size_bytes,
    }) = &entry.sparse
    else {
        write_at(file, 0, archive.data_bytes(), entry, archive, &mut crc)?;
        return Ok(Some(crc.sum()));
    };
    for segment in segments {
        write_at(file, segment.offset, segment.len, entry, archive, &mut crc)?;
    }
    file.set_len(*size_bytes)
        .map_err(|error| io_error("write", entry, &error))?;
    Ok(None)
}

fn write_at<R: BufRead>(
    file: &File,
    mut offset: u64,
    len: u64,
    entry: &Entry,
    archive: &mut Archive<R>,
    crc: &mut Crc,
) -> Result<(), Error> {
    archive.read_data(len, |chunk| {
        file.write_all_at(chunk, offset)
            .map_err(|error| io_error("write", entry, &error))?;
        crc.update(chunk);
        offset += chunk.len() as u64;
        Ok(())
    })
}

fn io_error(op: &'static str, entry: &Entry, error: &std::io::Error) -> Error {
    Error::io(op, &entry.path, errno_of(error))
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn stat_at(parent: &OwnedFd, path: &Path) -> Result<FileStat, Error> {
    fstatat(parent, os(&path.name), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|errno| Error::io("look up", &path.whole(), errno))
}

fn set_opaque(parent: &OwnedFd, path: &Path) -> Result<(), Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, os(&path.name), flags, Mode::empty())
        .and_then(|directory| xattr::set(&directory, opaque_xattr(), b"y"))
        .map_err(|errno| Error::io("make opaque", &path.whole(), errno))
}

fn dangling(path: &[u8]) -> Error {
    Error::refused(
        path,
        "it is a hard link to something that the layer does not hold",
    )
}

#[cfg(test)]
mod tests;
