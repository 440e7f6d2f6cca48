//! Whole directory trees that something hostile has written: removing and measuring them.
//!
//! Both walk by file descriptor, never follow a symbolic link, and take neither a thread's stack nor an
//! unbounded number of descriptors, however deep the tree is.

use crisp_sys::directory::{Entry, Kind, Listing};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::ops::{AddAssign, ControlFlow};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directories that are open at the same time while a tree is removed; deeper ones are moved up first.
const MAX_DEPTH_REMOVING: usize = 64;

/// Directories that are open at the same time while a tree is visited. What is deeper is not seen;
/// only a long chain of relative mkdirs gets there.
const MAX_DEPTH_VISITING: usize = 512;

/// Files with several names that are remembered so as to count them once; 16 MiB.
const MAX_REMEMBERED_INODES: usize = 1 << 20;

/// The type bits of a file's mode.
pub(crate) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// What a tree takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Size {
    /// Of one thing, whatever is in it.
    pub(crate) fn of(stat: &FileStat) -> Self {
        Self {
            // st_blocks counts 512 bytes whatever the file system's block size is (stat(2)).
            bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            inodes: 1,
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// An open directory that is being listed.
struct Level {
    directory: Listing,
    name: CString,
}

impl Level {
    fn open(parent: impl AsFd, name: &CStr) -> nix::Result<Self> {
        Ok(Self {
            directory: Listing::new(open_directory(parent, name)?),
            name: name.to_owned(),
        })
    }
}

fn open_directory(parent: impl AsFd, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes the tree at `path`; that it is not there is fine.
pub(crate) fn remove(path: &Path) -> nix::Result<()> {
    match remove_at(AT_FDCWD, path.as_os_str()) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Removes the directory `name` of `parent` with all that is in it. Nobody else may write there.
pub(crate) fn remove_at(parent: impl AsFd, name: &OsStr) -> nix::Result<()> {
    let parent = parent.as_fd();
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut moved_up = 0;
    let mut open = vec![open_to_empty(parent, &name)?];
    while let Some(level) = open.last_mut() {
        match level.directory.next_entry()? {
            Some(Entry { name: child, kind }) => {
                if remove_unless_directory(&level.directory, &child, kind)? {
                    continue;
                }
                if open.len() < MAX_DEPTH_REMOVING {
                    let child = open_to_empty(&open[open.len() - 1].directory, &child)?;
                    open.push(child);
                } else {
                    move_up(
                        &open[open.len() - 1].directory,
                        &child,
                        &open[0].directory,
                        &mut moved_up,
                    )?;
                }
            }
            None => remove_emptied(&mut open, parent)?,
        }
    }
    Ok(())
}

fn remove_unless_directory(parent: impl AsFd, name: &CStr, kind: Kind) -> nix::Result<bool> {
    if kind == Kind::Directory {
        return Ok(false);
    }
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EISDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes the innermost open directory, or lists it again if something was moved there.
fn remove_emptied(open: &mut Vec<Level>, parent: impl AsFd) -> nix::Result<()> {
    let Some(emptied) = open.pop() else {
        return Ok(());
    };
    let parent = open
        .last()
        .map_or(parent.as_fd(), |level| level.directory.as_fd());
    match unlinkat(parent, emptied.name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOTEMPTY) => {
            let again = Level::open(parent, &emptied.name)?;
            open.push(again);
            Ok(())
        }
        result => result,
    }
}

/// Moves a directory to the top of the tree, where it is found later.
fn move_up(
    from: impl AsFd + Copy,
    name: &CStr,
    top: impl AsFd + Copy,
    moved_up: &mut u64,
) -> nix::Result<()> {
    loop {
        *moved_up += 1;
        let new_name = format!("crisp-removing-{moved_up}");
        match renameat2(
            from,
            name,
            top,
            new_name.as_str(),
            RenameFlags::RENAME_NOREPLACE,
        ) {
            Err(Errno::EEXIST) => {}
            result => return result,
        }
    }
}

/// Root passes any mode; another owner has to change it first. The name is that of a directory, and
/// nobody else can change that.
fn open_to_empty(parent: impl AsFd, name: &CStr) -> nix::Result<Level> {
    if !geteuid().is_root() {
        fchmodat(&parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    }
    Level::open(parent, name)
}

/// Measures the tree at `path`, with its root. What vanishes meanwhile is left out.
pub(crate) fn measure(path: &Path) -> nix::Result<Size> {
    let mut tally = Tally::default();
    visit(path, |place| {
        tally.add(place.stat);
        ControlFlow::Continue(())
    })?;
    Ok(tally.size)
}

/// Something in a tree that is being visited.
pub(crate) struct Place<'a> {
    open: &'a [Level],
    /// In its directory; `.` is the root itself.
    pub(crate) name: &'a CStr,
    pub(crate) stat: &'a FileStat,
}

impl Place<'_> {
    /// The directory that it is in.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.open[self.open.len() - 1].directory.as_fd()
    }

    /// Beneath the root of the tree.
    pub(crate) fn path(&self) -> PathBuf {
        let above = self.open.iter().skip(1).map(|level| level.name.as_c_str());
        let names = above.chain([self.name]);
        names
            .map(|name| OsStr::from_bytes(name.to_bytes()))
            .collect()
    }
}

/// How much of a tree was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visited {
    Whole,
    /// It is too deep, or who saw it has broken off.
    Part,
}

/// Shows all of the tree at `path`, its root first, until `see` breaks off. What vanishes meanwhile is
/// left out.
pub(crate) fn visit(
    path: &Path,
    mut see: impl FnMut(&Place<'_>) -> ControlFlow<()>,
) -> nix::Result<Visited> {
    let root = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut open = vec![Level::open(AT_FDCWD, &root)?];
    let mut visited = Visited::Whole;
    let seen = see(&Place {
        stat: &fstat(&open[0].directory)?,
        open: &open,
        name: c".",
    });
    if seen.is_break() {
        return Ok(Visited::Part);
    }
    while let Some(level) = open.last_mut() {
        let Some(Entry { name, .. }) = level.directory.next_entry()? else {
            open.pop();
            continue;
        };
        let stat = match fstatat(
            &level.directory,
            name.as_c_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Err(Errno::ENOENT) => continue,
            result => result?,
        };
        let seen = see(&Place {
            stat: &stat,
            open: &open,
            name: &name,
        });
        if seen.is_break() {
            return Ok(Visited::Part);
        }
        if kind_of(&stat) != SFlag::S_IFDIR {
            continue;
        }
        if open.len() == MAX_DEPTH_VISITING {
            visited = Visited::Part;
            continue;
        }
        match Level::open(&open[open.len() - 1].directory, &name) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            child => open.push(child?),
        }
    }
    Ok(visited)
}

/// Adds up what things take on disk.
#[derive(Default)]
pub(crate) struct Tally {
    size: Size,
    /// Device and inode of files that have several names.
    seen: HashSet<(u64, u64)>,
}

impl Tally {
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Whether no file can have counted twice.
    pub(crate) fn is_exact(&self) -> bool {
        self.seen.len() < MAX_REMEMBERED_INODES
    }

    /// A file with several names counts once.
    pub(crate) fn add(&mut self, stat: &FileStat) {
        let has_other_names = stat.st_nlink > 1 && kind_of(stat) != SFlag::S_IFDIR;
        let remembers = has_other_names && self.seen.len() < MAX_REMEMBERED_INODES;
        if remembers && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.size += Size::of(stat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_removed_tree_takes_nothing_else_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();

        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read(kept.join("file")).unwrap(), b"x");
        remove(&tree).unwrap();
    }

    /// Far deeper than a path can be long.
    #[test]
    fn a_very_deep_tree_is_measured_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = open_directory(
            AT_FDCWD,
            &CString::new(dir.path().as_os_str().as_bytes()).unwrap(),
        )
        .unwrap();
        for _ in 0..1000 {
            mkdirat(&at, "deep", Mode::S_IRWXU).unwrap();
            at = open_directory(&at, c"deep").unwrap();
        }
        let deep = dir.path().join("deep");
        assert_eq!(
            measure(&deep).unwrap().inodes,
            MAX_DEPTH_VISITING as u64 + 1
        );
        let visited = visit(&deep, |_| ControlFlow::Continue(()));
        assert_eq!(visited, Ok(Visited::Part));
        remove(&deep).unwrap();
        assert!(!deep.exists());
    }

    #[test]
    fn files_with_several_names_count_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let before = measure(dir.path()).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(measure(dir.path()).unwrap(), before);
        assert!(before.bytes >= 100_000, "{before:?}");
        assert_eq!(before.inodes, 2);
    }
}
