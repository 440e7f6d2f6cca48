//! The directories of control groups.

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What the directories of a group of version 1, one for each hierarchy, are all below. From there, files in them
/// are opened in nine tenths of the time that it takes from `/`. None: it is not worth it, or cannot be opened.
#[derive(Debug)]
pub struct CommonAncestor<'a>(Option<(&'a Path, OwnedFd)>);

impl<'a> CommonAncestor<'a> {
    /// That of these directories.
    #[must_use]
    pub fn of(dirs: &'a [PathBuf]) -> Self {
        let [first, _, ..] = dirs else {
            return Self(None);
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = |path| Some((path, open(path, flags, Mode::empty()).ok()?));
        Self(above_all(first, dirs).and_then(opened))
    }

    /// Opens a file in one of the directories for writing.
    ///
    /// # Errors
    /// Those of open(2), such as `ENOENT` when there is no such file.
    pub fn open(&self, file: &Path) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        if let Some((path, directory)) = &self.0
            && let Ok(below) = file.strip_prefix(path)
        {
            return openat(directory, below, flags, Mode::empty());
        }
        open(file, flags, Mode::empty())
    }
}

fn above_all<'a>(first: &'a Path, dirs: &[PathBuf]) -> Option<&'a Path> {
    let mut above = first.ancestors().skip(1);
    above.find(|above| dirs.iter().all(|dir| dir.starts_with(above)))
}

/// Opens the directory of a group if that is one of version 2, in which a process can be born; none: it is of
/// another hierarchy.
///
/// # Errors
/// Those of open(2), such as `ENOENT` when there is no such group.
pub fn open_unified(dir: &Path) -> nix::Result<Option<OwnedFd>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(dir, flags, Mode::empty())?;
    let is_unified = fstatfs(&opened)?.filesystem_type() == CGROUP2_SUPER_MAGIC;
    Ok(is_unified.then_some(opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_opened_wherever_the_directories_are() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["cpu/pod/a", "memory/pod/a", "pids/pod"].map(|dir| root.path().join(dir));
        for dir in &dirs {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("tasks"), "").unwrap();
        }
        assert_eq!(above_all(&dirs[0], &dirs), Some(root.path()));
        for dirs in [&dirs[..], &dirs[..2], &dirs[2..], &[]] {
            let ancestor = CommonAncestor::of(dirs);
            for dir in dirs {
                assert!(
                    ancestor.open(&dir.join("tasks")).is_ok(),
                    "{}",
                    dir.display()
                );
            }
            // One that is elsewhere too.
            assert!(ancestor.open(Path::new("/dev/null")).is_ok());
            let missing = root.path().join("cpu/pod/missing");
            assert_eq!(
                ancestor.open(&missing).err(),
                Some(nix::errno::Errno::ENOENT)
            );
        }
    }
}
