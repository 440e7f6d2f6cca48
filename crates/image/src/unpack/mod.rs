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
mod path;

use crate::tar::{self, Archive, Entry, Kind, Sparse};
use crate::tree::{self, kind_of};
use attributes::{Attributes, mode, os};
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, geteuid, linkat, symlinkat, unlinkat};
use path::{Path, Target};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// The most entries of one layer.
const MAX_ENTRIES: u64 = 4_000_000;
/// The most memory that is kept about directories until they are complete.
const MAX_DIRECTORY_BYTES: usize = 16 << 20;
/// The mode of a directory that the archive does not describe, and of every one until the end.
const IMPLICIT_MODE: u32 = 0o755;
const MODE_WHILE_UNPACKING: Mode = Mode::S_IRWXU;
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

/// Unpacks the whole archive below `root`, an empty directory.
pub(crate) fn unpack<R: BufRead>(reader: R, root: OwnedFd) -> Result<Unpacked, Error> {
    let mut archive = Archive::new(reader);
    let mut unpacker = Unpacker::new(root);
    while let Some(entry) = archive.next_entry()? {
        unpacker.add(&entry, &mut archive)?;
    }
    archive.finish()?;
    unpacker.finish()
}

struct Unpacker {
    root: Rc<OwnedFd>,
    /// The directory of the last entry: most entries are in the same as the one before.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Attributes of described directories, applied at the end.
    directories: BTreeMap<Vec<u8>, Attributes>,
    implicit: BTreeSet<Vec<u8>>,
    /// Memory that the two take, about.
    directory_bytes: usize,
    entries: u64,
    unpacked: Unpacked,
}

impl Unpacker {
    fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            parent: None,
            directories: BTreeMap::new(),
            implicit: BTreeSet::new(),
            directory_bytes: 0,
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
        self.describe(Vec::new(), attributes)
    }

    fn add_directory(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        let attributes = Attributes::of(entry)?;
        let parent = self.parent(&path.parent)?;
        let whole = path.whole();
        match mkdirat(&*parent, os(&path.name), MODE_WHILE_UNPACKING) {
            Ok(()) => self.count(0),
            Err(Errno::EEXIST) => self.replace_by_directory(&parent, path)?,
            Err(errno) => return Err(Error::io("make the directory", &whole, errno)),
        }
        if self.implicit.remove(&whole) {
            self.directory_bytes -= whole.len();
        }
        self.describe(whole, attributes)
    }

    /// A directory that exists stays; one in the place of a whiteout hides what is below.
    fn replace_by_directory(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        let stat = stat_at(parent, path)?;
        if kind_of(&stat) == SFlag::S_IFDIR {
            return Ok(());
        }
        self.remove(parent, path)?;
        mkdirat(parent, os(&path.name), MODE_WHILE_UNPACKING)
            .map_err(|errno| Error::io("make the directory", &path.whole(), errno))?;
        self.count(0);
        if is_whiteout(&stat) {
            set_opaque(parent, path)?;
        }
        Ok(())
    }

    fn add_file<R: BufRead>(
        &mut self,
        path: &Path,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Error> {
        let attributes = Attributes::of(entry)?;
        let parent = self.parent(&path.parent)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = self.replacing(&parent, path, "make the file", || {
            openat(&*parent, os(&path.name), flags, mode)
        })?;
        let file = File::from(file);
        write_data(&file, entry, archive)?;
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
        let parent = self.parent(&path.parent)?;
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
        let target_parent = self.existing_parent(&target)?;
        let stat = stat_at(&target_parent, &target).map_err(|_| dangling(&entry.path))?;
        if kind_of(&stat) == SFlag::S_IFDIR || is_whiteout(&stat) {
            return Err(Error::refused(
                &entry.path,
                "it is a hard link to a directory or a whiteout",
            ));
        }
        let parent = self.parent(&path.parent)?;
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
        let parent = self.parent(&path.parent)?;
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
        let parent = self.parent(&path.parent)?;
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
        self.parent(directory)?;
        let directory_fd = self.open(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        xattr::set(&directory_fd, opaque_xattr(), b"y")
            .map_err(|errno| Error::io("make opaque", directory, errno))
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
                self.remove(parent, path)?;
                make()
            }
            result => result,
        };
        made.map_err(|errno| Error::io(op, &path.whole(), errno))
    }

    fn remove(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        let whole = path.whole();
        match unlinkat(parent, os(&path.name), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {}
            result => return result.map_err(|errno| Error::io("replace", &whole, errno)),
        }
        self.parent = None;
        self.forget_below(&whole);
        tree::remove_at(parent, os(&path.name)).map_err(|errno| Error::io("replace", &whole, errno))
    }

    /// Forgets a directory that was removed and all in it.
    fn forget_below(&mut self, removed: &[u8]) {
        let below = path::join(removed, b"");
        let inside = |path: &[u8]| path == removed || path.starts_with(&below);
        self.directories.retain(|path, _| !inside(path));
        self.implicit.retain(|path| !inside(path));
    }

    /// Remembers what a directory is to have at the end.
    fn describe(&mut self, path: Vec<u8>, attributes: Attributes) -> Result<(), Error> {
        self.reserve(&path, path.len() + attributes.len())?;
        self.directories.insert(path, attributes);
        Ok(())
    }

    fn reserve(&mut self, path: &[u8], bytes: usize) -> Result<(), Error> {
        self.directory_bytes += bytes;
        if self.directory_bytes > MAX_DIRECTORY_BYTES {
            return Err(Error::refused(path, "the layer has too many directories"));
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.unpacked.inodes += 1;
        self.unpacked.bytes += bytes.next_multiple_of(BLOCK_BYTES);
    }

    /// Opens a directory of this layer, and makes it if it is not there.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((known, parent)) = &self.parent
            && known == path
        {
            return Ok(parent.clone());
        }
        let parent = match self.open_directory(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_directories(path)?,
            result => result.map_err(|errno| lookup_error(path, errno))?,
        };
        let parent = Rc::new(parent);
        self.parent = Some((path.to_vec(), parent.clone()));
        Ok(parent)
    }

    fn existing_parent(&self, target: &Path) -> Result<Rc<OwnedFd>, Error> {
        if target.parent.is_empty() {
            return Ok(self.root.clone());
        }
        match self.open_directory(&target.parent) {
            Ok(parent) => Ok(Rc::new(parent)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(dangling(&target.whole())),
            Err(errno) => Err(lookup_error(&target.parent, errno)),
        }
    }

    /// Walks down component by component; what is missing becomes an implicit directory.
    fn make_directories(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let mut parent = self.root.clone();
        let mut at = 0;
        loop {
            let end = path[at..]
                .iter()
                .position(|&b| b == b'/')
                .map_or(path.len(), |len| at + len);
            let directory = &path[..end];
            let opened = match self.open_directory(directory) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    let path = Path {
                        parent: path[..at.saturating_sub(1)].into(),
                        name: path[at..end].into(),
                    };
                    self.make_implicit(&parent, &path)?;
                    self.open_directory(directory)
                }
                result => result,
            };
            let opened = opened.map_err(|errno| lookup_error(directory, errno))?;
            if end == path.len() {
                return Ok(opened);
            }
            parent = Rc::new(opened);
            at = end + 1;
        }
    }

    fn make_implicit(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        let whole = path.whole();
        match mkdirat(parent, os(&path.name), MODE_WHILE_UNPACKING) {
            Ok(()) => self.count(0),
            Err(Errno::EEXIST) if is_whiteout(&stat_at(parent, path)?) => {
                self.replace_by_directory(parent, path)?;
            }
            Err(Errno::EEXIST) => return Err(lookup_error(&whole, Errno::ENOTDIR)),
            Err(errno) => return Err(Error::io("make the directory", &whole, errno)),
        }
        self.reserve(&whole, whole.len())?;
        self.implicit.insert(whole);
        Ok(())
    }

    fn open_directory(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        open_beneath(&self.root, path, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    fn open(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Error> {
        open_beneath(&self.root, path, flags).map_err(|errno| lookup_error(path, errno))
    }

    /// Gives directories their attributes, those inside of others first.
    fn finish(mut self) -> Result<Unpacked, Error> {
        let directories = std::mem::take(&mut self.directories);
        let implicit = std::mem::take(&mut self.implicit);
        for path in implicit.iter().rev() {
            let directory = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            fchmod(&directory, mode(IMPLICIT_MODE))
                .map_err(|errno| Error::io("change the mode of", path, errno))?;
        }
        for (path, attributes) in directories.iter().rev() {
            let path: &[u8] = if path.is_empty() { b"." } else { path };
            let directory = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            attributes
                .apply_to_file(&directory)
                .map_err(|(op, errno)| Error::io(op, path, errno))?;
        }
        self.unpacked.implicit_dirs = implicit.into_iter().collect();
        Ok(self.unpacked)
    }
}

fn write_data<R: BufRead>(
    file: &File,
    entry: &Entry,
    archive: &mut Archive<R>,
) -> Result<(), Error> {
    let Some(Sparse {
        segments,
        size_bytes,
    }) = &entry.sparse
    else {
        return write_at(file, 0, archive.data_bytes(), entry, archive);
    };
    for segment in segments {
        write_at(file, segment.offset, segment.len, entry, archive)?;
    }
    file.set_len(*size_bytes)
        .map_err(|error| write_error(entry, &error))
}

fn write_at<R: BufRead>(
    file: &File,
    mut offset: u64,
    len: u64,
    entry: &Entry,
    archive: &mut Archive<R>,
) -> Result<(), Error> {
    archive.read_data(len, |chunk| {
        file.write_all_at(chunk, offset)
            .map_err(|error| write_error(entry, &error))?;
        offset += chunk.len() as u64;
        Ok(())
    })
}

fn write_error(entry: &Entry, error: &std::io::Error) -> Error {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    Error::io("write", &entry.path, errno)
}

fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(
        root,
        os(path),
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(resolve),
    )
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

fn lookup_error(path: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::EXDEV | Errno::ELOOP => Error::refused(
            path,
            "a symbolic link on its way leads out of the layer or in circles",
        ),
        Errno::ENOTDIR => Error::refused(path, "something on its way is not a directory"),
        errno => Error::io("open the directory", path, errno),
    }
}

#[cfg(test)]
mod tests;
