//! The directories of a layer that is being unpacked: opened beneath its root, made where they are
//! missing, and given their attributes at the end.

use super::attributes::{Attributes, mode, os};
use super::path::{self, Path};
use super::{Error, dangling, is_whiteout, opaque_xattr, set_opaque, stat_at};
use crate::tree::{self, kind_of};
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// The most memory that is kept about directories until the end.
const MAX_BYTES: usize = 16 << 20;
/// The mode of a directory that the archive does not describe.
const IMPLICIT_MODE: u32 = 0o755;
/// That of every directory until the end.
const MODE_WHILE_UNPACKING: Mode = Mode::S_IRWXU;

/// Directories are named by their paths from the root; the root's is empty.
pub(super) struct Directories {
    root: Rc<OwnedFd>,
    /// The last one that was opened: most entries are in the same as the one before.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    described: BTreeMap<Vec<u8>, Attributes>,
    /// Those that the archive has things in, but does not describe.
    implicit: BTreeSet<Vec<u8>>,
    /// Memory that the two take, about.
    bytes: usize,
    made: u64,
    removals: u64,
}

impl Directories {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            last: None,
            described: BTreeMap::new(),
            implicit: BTreeSet::new(),
            bytes: 0,
            made: 0,
            removals: 0,
        }
    }

    /// How many were made.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// How often something had to go for what came later.
    pub(super) fn removals(&self) -> u64 {
        self.removals
    }

    /// Opens a directory, and makes it and those above it if they are not there.
    pub(super) fn open(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((known, directory)) = &self.last
            && known == path
        {
            return Ok(directory.clone());
        }
        let directory = match self.try_open(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_all(path)?,
            result => result.map_err(|errno| lookup_error(path, errno))?,
        };
        let directory = Rc::new(directory);
        self.last = Some((path.to_vec(), directory.clone()));
        Ok(directory)
    }

    /// Opens the directory that the target of a hard link is in.
    pub(super) fn existing(&self, target: &Path) -> Result<Rc<OwnedFd>, Error> {
        if target.parent.is_empty() {
            return Ok(self.root.clone());
        }
        match self.try_open(&target.parent) {
            Ok(directory) => Ok(Rc::new(directory)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(dangling(&target.whole())),
            Err(errno) => Err(lookup_error(&target.parent, errno)),
        }
    }

    /// Makes a directory. One that exists stays; one in the place of a whiteout hides what is below.
    pub(super) fn make(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        let hides = match mkdirat(parent, os(&path.name), MODE_WHILE_UNPACKING) {
            Err(Errno::EEXIST) => {
                let stat = stat_at(parent, path)?;
                if kind_of(&stat) == SFlag::S_IFDIR {
                    return Ok(());
                }
                self.remove(parent, path)?;
                mkdirat(parent, os(&path.name), MODE_WHILE_UNPACKING).map(|()| is_whiteout(&stat))
            }
            result => result.map(|()| false),
        };
        self.made += 1;
        match hides {
            Ok(true) => set_opaque(parent, path),
            Ok(false) => Ok(()),
            Err(errno) => Err(Error::io("make the directory", &path.whole(), errno)),
        }
    }

    /// Remembers what a directory is to have at the end.
    pub(super) fn describe(&mut self, path: Vec<u8>, attributes: Attributes) -> Result<(), Error> {
        if self.implicit.remove(&path) {
            self.bytes -= path.len();
        }
        self.reserve(&path, path.len() + attributes.len())?;
        self.described.insert(path, attributes);
        Ok(())
    }

    pub(super) fn set_opaque(&self, path: &[u8]) -> Result<(), Error> {
        let directory = self.open_readable(path)?;
        xattr::set(&directory, opaque_xattr(), b"y")
            .map_err(|errno| Error::io("make opaque", path, errno))
    }

    /// Removes whatever is at a path.
    pub(super) fn remove(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        self.removals += 1;
        let whole = path.whole();
        match unlinkat(parent, os(&path.name), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {}
            result => return result.map_err(|errno| Error::io("replace", &whole, errno)),
        }
        self.last = None;
        self.forget(&whole);
        tree::remove_at(parent, os(&path.name)).map_err(|errno| Error::io("replace", &whole, errno))
    }

    /// Gives directories their attributes, those inside of others first. Returns the implicit ones.
    pub(super) fn finish(self) -> Result<Vec<Vec<u8>>, Error> {
        for path in self.implicit.iter().rev() {
            let directory = self.open_readable(path)?;
            fchmod(&directory, mode(IMPLICIT_MODE))
                .map_err(|errno| Error::io("change the mode of", path, errno))?;
        }
        for (path, attributes) in self.described.iter().rev() {
            let path: &[u8] = if path.is_empty() { b"." } else { path };
            let directory = self.open_readable(path)?;
            attributes
                .apply_to_file(&directory)
                .map_err(|(op, errno)| Error::io(op, path, errno))?;
        }
        Ok(self.implicit.into_iter().collect())
    }

    /// Walks down component by component; what is missing becomes an implicit directory.
    fn make_all(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let mut parent = self.root.clone();
        let mut start = 0;
        loop {
            let rest = &path[start..];
            let end = start
                + rest
                    .iter()
                    .position(|&byte| byte == b'/')
                    .unwrap_or(rest.len());
            let directory = &path[..end];
            let opened = match self.try_open(directory) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    let above = &path[..start.saturating_sub(1)];
                    self.make_implicit(
                        &parent,
                        &Path {
                            parent: above.into(),
                            name: path[start..end].into(),
                        },
                    )?;
                    self.try_open(directory)
                }
                result => result,
            };
            let opened = opened.map_err(|errno| lookup_error(directory, errno))?;
            if end == path.len() {
                return Ok(opened);
            }
            parent = Rc::new(opened);
            start = end + 1;
        }
    }

    /// Only where nothing is, or a whiteout: an archive that puts something below a file is refused.
    fn make_implicit(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        let whole = path.whole();
        match stat_at(parent, path) {
            Ok(stat) if !is_whiteout(&stat) => return Err(lookup_error(&whole, Errno::ENOTDIR)),
            Ok(_)
            | Err(Error::Io {
                errno: Errno::ENOENT,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
        self.make(parent, path)?;
        self.reserve(&whole, whole.len())?;
        self.implicit.insert(whole);
        Ok(())
    }

    fn reserve(&mut self, path: &[u8], bytes: usize) -> Result<(), Error> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            return Err(Error::refused(path, "the layer has too many directories"));
        }
        Ok(())
    }

    /// Forgets a directory that was removed and all in it.
    fn forget(&mut self, removed: &[u8]) {
        let below = path::join(removed, b"");
        let inside = |path: &[u8]| path == removed || path.starts_with(&below);
        self.described.retain(|path, _| !inside(path));
        self.implicit.retain(|path| !inside(path));
    }

    fn try_open(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        open_beneath(&self.root, path, OFlag::O_PATH)
    }

    fn open_readable(&self, path: &[u8]) -> Result<OwnedFd, Error> {
        open_beneath(&self.root, path, OFlag::O_RDONLY).map_err(|errno| lookup_error(path, errno))
    }
}

fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(root, os(path), OpenHow::new().flags(flags).resolve(resolve))
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
