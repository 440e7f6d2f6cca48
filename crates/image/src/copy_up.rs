//! A volume that an image declares starts with what the image has at its path: a directory of its layers
//! becomes one of the container's own.
//!
//! The layers are hostile: all goes by file descriptor and one name at a time, and no symbolic link is
//! followed.

use crate::Error;
use crate::attributes::{Attributes, modified};
use crate::stack::{Directory, Node, Part};
use crate::tree::kind_of;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, mkdirat, mknodat, utimensat,
};
use nix::unistd::{Gid, Uid, Whence, fchownat, ftruncate, linkat, lseek, symlinkat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Directories below each other: each holds descriptors while what is in it is copied.
const MAX_DEPTH: usize = 128;

/// Makes the directory `to` as `from` is, with all that is in it.
pub(crate) fn copy_up(from: &Directory, to: &Path) -> Result<(), Error> {
    let fail = |errno| match errno {
        Errno::ELOOP => Error::refused(
            to.display().to_string(),
            format!("the image has more than {MAX_DEPTH} directories below each other there"),
        ),
        errno => Error::io("copy what the image has to", to, errno),
    };
    let root = make_directory(AT_FDCWD, to.as_os_str()).map_err(fail)?;
    let mut copy = Copy {
        root: &root,
        way: PathBuf::new(),
        linked: HashMap::new(),
    };
    copy.fill(&root, from).map_err(fail)
}

/// A copy that is under way.
struct Copy<'a> {
    root: &'a OwnedFd,
    /// From the root to the directory that is being filled.
    way: PathBuf,
    /// Files with several names that are copied already: device and inode, and where the copy is.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    fn fill(&mut self, to: &OwnedFd, from: &Directory) -> nix::Result<()> {
        if self.way.components().count() > MAX_DEPTH {
            return Err(Errno::ELOOP);
        }
        for name in from.names()? {
            match from.child(&name)? {
                // A whiteout.
                None => {}
                Some(Node::Directory(directory)) => {
                    let made = make_directory(to, &name)?;
                    self.way.push(&name);
                    self.fill(&made, &directory)?;
                    self.way.pop();
                }
                Some(Node::Other { parent, stat, .. }) => self.copy(to, &parent, &name, &stat)?,
            }
        }
        match from.parts.first() {
            Some(topmost) => Attributes::read(&topmost.fd)?.apply(to),
            None => Ok(()),
        }
    }

    fn copy(
        &mut self,
        to: &OwnedFd,
        from: &Part,
        name: &OsStr,
        stat: &FileStat,
    ) -> nix::Result<()> {
        if stat.st_nlink > 1 {
            let file = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&file) {
                return linkat(self.root, first.as_path(), to, name, AtFlags::empty());
            }
            self.linked.insert(file, self.way.join(name));
        }
        match kind_of(stat) {
            SFlag::S_IFREG => copy_file(to, from, name, stat),
            SFlag::S_IFLNK => copy_link(to, from, name, stat),
            kind => copy_node(to, name, kind, stat),
        }
    }
}

fn make_directory(parent: impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    mkdirat(&parent, name, Mode::S_IRWXU)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn copy_file(to: &OwnedFd, from: &Part, name: &OsStr, stat: &FileStat) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let source = openat(&*from.fd, name, flags, Mode::empty())?;
    let attributes = Attributes::read(&source)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let copy = File::from(openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    copy_data(&File::from(source), &copy)?;
    ftruncate(&copy, stat.st_size)?;
    attributes.apply(&copy.into())
}

/// Leaves holes as they are: a sparse file may seem larger than the disk.
fn copy_data(from: &File, to: &File) -> nix::Result<()> {
    let mut end = 0;
    loop {
        let start = match lseek(from, end, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(()),
            start => start?,
        };
        end = lseek(from, start, Whence::SeekHole)?;
        lseek(from, start, Whence::SeekSet)?;
        lseek(to, start, Whence::SeekSet)?;
        let mut data = from.take((end - start).unsigned_abs());
        io::copy(&mut data, &mut &*to).map_err(|error| {
            let errno = error.raw_os_error().map(Errno::from_raw);
            errno.unwrap_or(Errno::EIO)
        })?;
    }
}

fn copy_link(to: &OwnedFd, from: &Part, name: &OsStr, stat: &FileStat) -> nix::Result<()> {
    let target = readlinkat(&*from.fd, name)?;
    symlinkat(target.as_os_str(), to, name)?;
    own(to, name, stat)?;
    set_time(to, name, stat)
}

/// A device, a pipe or a socket.
fn copy_node(to: &OwnedFd, name: &OsStr, kind: SFlag, stat: &FileStat) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(stat.st_mode);
    mknodat(to, name, kind, mode, stat.st_rdev)?;
    own(to, name, stat)?;
    // It was just made, so that it is no link.
    fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)?;
    set_time(to, name, stat)
}

fn own(directory: &OwnedFd, name: &OsStr, stat: &FileStat) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(directory, name, Some(uid), Some(gid), flags)
}

fn set_time(directory: &OwnedFd, name: &OsStr, stat: &FileStat) -> nix::Result<()> {
    let (mtime, flags) = (modified(stat), UtimensatFlags::NoFollowSymlink);
    utimensat(directory, name, &mtime, &mtime, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use tempfile::TempDir;

    /// Two layers of a directory `data`, the upper one first.
    fn layers() -> (TempDir, [PathBuf; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let layers = ["upper", "lower"].map(|name| dir.path().join(name));
        for layer in &layers {
            fs::create_dir_all(layer.join("data/sub")).unwrap();
        }
        (dir, layers)
    }

    fn copied(dir: &TempDir, layers: &[PathBuf]) -> Result<PathBuf, Error> {
        let to = dir.path().join("volume");
        let Some(Node::Directory(data)) =
            Directory::root(layers)?.child(OsStr::new("data")).unwrap()
        else {
            panic!("data is a directory");
        };
        copy_up(&data, &to).map(|()| to)
    }

    #[test]
    fn a_volume_has_what_the_layers_have_together() {
        let (dir, layers) = layers();
        let [upper, lower] = &layers;
        fs::write(lower.join("data/a"), "lower").unwrap();
        fs::write(lower.join("data/sub/b"), "b").unwrap();
        fs::hard_link(lower.join("data/sub/b"), lower.join("data/c")).unwrap();
        fs::write(upper.join("data/a"), "upper").unwrap();
        fs::set_permissions(upper.join("data/a"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(upper.join("data"), Permissions::from_mode(0o1770)).unwrap();
        let volume = copied(&dir, &layers).unwrap();
        let read = |path| fs::read_to_string(volume.join(path)).unwrap();
        assert_eq!(
            (read("a"), read("sub/b"), read("c")),
            ("upper".into(), "b".into(), "b".into())
        );
        let stat = |path| fs::metadata(volume.join(path)).unwrap();
        assert_eq!(stat("sub/b").ino(), stat("c").ino());
        assert_eq!(stat("a").mode() & 0o7777, 0o640);
        assert_eq!(stat("").mode() & 0o7777, 0o1770);
        let of_layer = fs::metadata(upper.join("data/a")).unwrap();
        assert_eq!(stat("a").mtime_nsec(), of_layer.mtime_nsec());
    }

    #[test]
    fn links_and_pipes_are_copied_as_they_are() {
        let (dir, layers) = layers();
        let data = layers[1].join("data");
        symlink("/etc/shadow", data.join("link")).unwrap();
        nix::unistd::mkfifo(&data.join("pipe"), Mode::S_IRWXU).unwrap();
        let volume = copied(&dir, &layers).unwrap();
        assert_eq!(
            fs::read_link(volume.join("link")).unwrap(),
            Path::new("/etc/shadow")
        );
        let pipe = fs::symlink_metadata(volume.join("pipe")).unwrap();
        assert_eq!(pipe.mode() & SFlag::S_IFMT.bits(), SFlag::S_IFIFO.bits());
    }

    #[test]
    fn holes_stay_holes_and_depth_is_bounded() {
        let (dir, layers) = layers();
        let sparse = File::create(layers[0].join("data/sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let volume = copied(&dir, &layers).unwrap();
        let copy = fs::metadata(volume.join("sparse")).unwrap();
        assert_eq!((copy.len(), copy.blocks()), (1 << 40, 0));
        fs::remove_dir_all(volume).unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 1).collect();
        fs::create_dir_all(layers[0].join("data").join(deep)).unwrap();
        assert!(matches!(copied(&dir, &layers), Err(Error::Refused { .. })));
    }
}
