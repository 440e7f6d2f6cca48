//! Resolving and creating paths inside a root by file descriptor.
//!
//! A path that something hostile can change (an image, a volume, a running container) is never
//! looked up by string: openat2(2) resolves it with the root's descriptor as `/`, so that neither `..`
//! nor a symbolic link leaves the root, and magic links of procfs are refused.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Symbolic links that end in nothing, followed while making one directory: as many as the kernel
/// follows in one lookup.
const MAX_DANGLING_LINKS: usize = 40;

/// Attempts at a lookup that the kernel gives up because of a concurrent rename or mount.
const MAX_RACED_LOOKUPS: usize = 64;

/// Whether symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// Within the root.
    Follow,
    /// `ELOOP` for one in any component.
    Refuse,
}

/// Opens `path` with `root` as `/`.
///
/// # Errors
/// Those of openat2(2).
pub fn open_in_root(
    root: impl AsFd,
    path: &Path,
    flags: OFlag,
    symlinks: Symlinks,
) -> nix::Result<OwnedFd> {
    let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if symlinks == Symlinks::Refuse {
        resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
    }
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(resolve);
    open_retrying(root.as_fd(), non_empty(path), how)
}

/// Opens `path` below `directory` without following any link or crossing any mount: for kernel file
/// systems, where both can only be a trap.
///
/// # Errors
/// Those of openat2(2); `EXDEV` for another file system.
pub fn open_beneath(directory: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    open_retrying(directory.as_fd(), path, how)
}

/// Whether there is a directory at this path of the host, as far as the kernel can tell at once: it asks no file
/// system, which might hang (openat2(2), `RESOLVE_CACHED`, since Linux 5.12). No tells nothing.
#[must_use]
pub fn is_known_directory(path: &Path) -> bool {
    /// linux/openat2.h
    const RESOLVE_CACHED: u64 = 0x20;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::from_bits_retain(RESOLVE_CACHED));
    openat2(AT_FDCWD, path, how).is_ok()
}

fn open_retrying(directory: BorrowedFd<'_>, path: &Path, how: OpenHow) -> nix::Result<OwnedFd> {
    for _ in 0..MAX_RACED_LOOKUPS {
        match openat2(directory, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => return done,
        }
    }
    Err(Errno::EAGAIN)
}

fn non_empty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// Opens (`O_PATH`) the directory at `path` with `root` as `/`, making it and its parents with `mode`
/// where they are missing. A link that ends in nothing has its target made.
///
/// # Errors
/// `ENOTDIR` when a component is no directory, `EINVAL` for `..` after a component that does not
/// exist, else those of openat2(2) and mkdirat(2).
pub fn mkdir_all_in_root(root: impl AsFd, path: &Path, mode: Mode) -> nix::Result<OwnedFd> {
    let root = root.as_fd();
    let mut path = path.to_owned();
    for _ in 0..MAX_DANGLING_LINKS {
        let (directory, existing, missing) = open_existing(root, &path)?;
        match create_missing(directory, &missing, mode)? {
            Created::All(directory) => return Ok(directory),
            Created::MetLink(target, rest) => path = existing.join(target).join(rest),
        }
    }
    Err(Errno::ELOOP)
}

/// The deepest directory of `path` that exists, its path, and the components that do not.
fn open_existing(
    root: BorrowedFd<'_>,
    path: &Path,
) -> nix::Result<(OwnedFd, PathBuf, Vec<OsString>)> {
    let mut existing = path.to_owned();
    let mut missing = Vec::new();
    loop {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match open_in_root(root, &existing, flags, Symlinks::Follow) {
            Ok(directory) => {
                missing.reverse();
                return Ok((directory, existing, missing));
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        match existing.components().next_back() {
            Some(Component::Normal(name)) => missing.push(name.to_owned()),
            Some(Component::CurDir) => {}
            _ => return Err(Errno::EINVAL),
        }
        existing.pop();
    }
}

enum Created {
    All(OwnedFd),
    /// A link to this target stood where the first of these components belongs.
    MetLink(PathBuf, PathBuf),
}

fn create_missing(
    mut directory: OwnedFd,
    missing: &[OsString],
    mode: Mode,
) -> nix::Result<Created> {
    for (index, name) in missing.iter().enumerate() {
        match mkdirat(&directory, name.as_os_str(), mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        directory = match openat(&directory, name.as_os_str(), flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let target = readlinkat(&directory, name.as_os_str()).map_err(|error| {
                    // readlinkat says EINVAL for what is no link.
                    if error == Errno::EINVAL {
                        Errno::ENOTDIR
                    } else {
                        error
                    }
                })?;
                let rest = missing[index + 1..].iter().collect();
                return Ok(Created::MetLink(target.into(), rest));
            }
            Err(error) => return Err(error),
        };
    }
    Ok(Created::All(directory))
}

/// Opens (`O_PATH`) the file at `path` with `root` as `/`, making it (empty, with `mode`) and its
/// parents (with mode 0755) where they are missing. What exists is opened whatever it is.
///
/// # Errors
/// As [`mkdir_all_in_root`]; `EISDIR` for a path without a last component.
pub fn create_file_in_root(root: impl AsFd, path: &Path, mode: Mode) -> nix::Result<OwnedFd> {
    let root = root.as_fd();
    let mut path = path.to_owned();
    for _ in 0..MAX_DANGLING_LINKS {
        match open_in_root(root, &path, OFlag::O_PATH, Symlinks::Follow) {
            Err(Errno::ENOENT) => {}
            done => return done,
        }
        let (parent, name) = split(&path)?;
        let directory = mkdir_all_in_root(root, parent, Mode::from_bits_truncate(0o755))?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&directory, name, flags, mode) {
            Ok(_) => {
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                return openat(&directory, name, flags, Mode::empty());
            }
            Err(Errno::EEXIST) => {
                let target = readlinkat(&directory, name)?;
                path = parent.join(target);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ELOOP)
}

/// The parent directory of `path`, made where missing and opened (`O_PATH`) with `root` as `/`, and
/// the last component.
///
/// # Errors
/// As [`mkdir_all_in_root`]; `EISDIR` for a path without a last component.
pub fn parent_in_root(root: impl AsFd, path: &Path) -> nix::Result<(OwnedFd, OsString)> {
    let (parent, name) = split(path)?;
    let directory = mkdir_all_in_root(root, parent, Mode::from_bits_truncate(0o755))?;
    Ok((directory, name.to_owned()))
}

fn split(path: &Path) -> nix::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    Ok((path.parent().unwrap_or(Path::new("/")), name))
}

/// fstatat(2) of one name in a directory, without following it.
///
/// # Errors
/// Those of fstatat(2).
pub fn stat_entry(directory: impl AsFd, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// The file's path as the kernel spells it, with `self_proc` an open `/proc/self`.
///
/// # Errors
/// Those of readlinkat(2).
pub fn describe(self_proc: impl AsFd, fd: impl AsFd) -> nix::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let link = format!("fd/{}", fd.as_fd().as_raw_fd());
    readlinkat(self_proc, OsStr::from_bytes(link.as_bytes())).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn root() -> (TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let fd = nix::fcntl::open(dir.path(), flags, Mode::empty()).unwrap();
        (dir, fd)
    }

    const MODE: Mode = Mode::from_bits_truncate(0o755);

    #[test]
    fn a_directory_that_was_just_made_is_known_and_nothing_else_is() {
        let (dir, _) = root();
        fs::write(dir.path().join("file"), "").unwrap();
        // A mount or a rename somewhere may keep the kernel from telling once.
        assert!((0..MAX_RACED_LOOKUPS).any(|_| is_known_directory(dir.path())));
        for other in ["file", "missing"] {
            assert!(!is_known_directory(&dir.path().join(other)));
        }
    }

    #[test]
    fn directories_are_made_inside_the_root_whatever_links_say() {
        let outside = tempfile::tempdir().unwrap();
        let (dir, fd) = root();
        symlink(outside.path(), dir.path().join("absolute")).unwrap();
        symlink("../../../../..", dir.path().join("up")).unwrap();
        symlink("/run", dir.path().join("dangling")).unwrap();
        mkdir_all_in_root(&fd, Path::new("/absolute/a"), MODE).unwrap();
        mkdir_all_in_root(&fd, Path::new("up/b"), MODE).unwrap();
        mkdir_all_in_root(&fd, Path::new("dangling/c/d"), MODE).unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = dir.path().join(outside.path().strip_prefix("/").unwrap());
        assert!(inside.join("a").is_dir());
        assert!(dir.path().join("b").is_dir());
        assert!(dir.path().join("run/c/d").is_dir());
    }

    #[test]
    fn files_are_made_where_a_dangling_link_points() {
        let (dir, fd) = root();
        symlink("/etc/real", dir.path().join("link")).unwrap();
        create_file_in_root(&fd, Path::new("/link"), Mode::from_bits_truncate(0o644)).unwrap();
        assert!(dir.path().join("etc/real").is_file());
    }

    #[test]
    fn link_loops_and_parents_of_nothing_end() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(
            mkdir_all_in_root(&fd, Path::new("a/c"), MODE).unwrap_err(),
            Errno::ELOOP
        );
        assert_eq!(
            mkdir_all_in_root(&fd, Path::new("none/../x"), MODE).unwrap_err(),
            Errno::EINVAL
        );
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(
            mkdir_all_in_root(&fd, Path::new("file/x"), MODE).unwrap_err(),
            Errno::ENOTDIR
        );
    }

    #[test]
    fn links_are_refused_where_asked_and_magic_links_always() {
        let (dir, fd) = root();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let open = |symlinks| open_in_root(&fd, Path::new("link"), OFlag::O_PATH, symlinks);
        assert!(open(Symlinks::Follow).is_ok());
        assert_eq!(open(Symlinks::Refuse).unwrap_err(), Errno::ELOOP);
        let host = nix::fcntl::open("/", OFlag::O_PATH, Mode::empty()).unwrap();
        let magic = Path::new("/proc/self/root");
        assert!(open_in_root(&host, magic, OFlag::O_PATH, Symlinks::Follow).is_err());
    }
}
