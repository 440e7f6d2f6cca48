//! Directories that stay open from look to look: the way to a file takes the kernel as long as its content.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;

/// Of the files that the process may have open, so many may be kept directories: one in four.
const SHARE: u64 = 4;

/// How many more directories may be kept.
#[derive(Debug)]
pub(crate) struct Allowance(AtomicU64);

impl Allowance {
    pub(crate) fn of_process() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        Self(AtomicU64::new(files / SHARE))
    }

    fn take(self: &Arc<Self>) -> Option<Taken> {
        let less = |left: u64| left.checked_sub(1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.ok().map(|_| Taken(self.clone()))
    }
}

/// Of an [`Allowance`], for one directory.
#[derive(Debug)]
struct Taken(Arc<Allowance>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The directories of one cgroup, each opened when a file in it is first asked for.
#[derive(Debug)]
pub(crate) struct KeptDirs {
    by_hierarchy: Box<[OnceLock<KeptDir>]>,
    allowance: Arc<Allowance>,
}

#[derive(Debug)]
struct KeptDir {
    dir: OwnedFd,
    _taken: Taken,
}

impl KeptDirs {
    pub(crate) fn new(hierarchies: usize, allowance: &Arc<Allowance>) -> Self {
        Self {
            by_hierarchy: (0..hierarchies).map(|_| OnceLock::new()).collect(),
            allowance: allowance.clone(),
        }
    }

    /// Opens a file for reading; `dir` tells where the cgroup is in that hierarchy.
    pub(crate) fn open(
        &self,
        hierarchy: usize,
        dir: impl FnOnce() -> PathBuf,
        name: &str,
    ) -> io::Result<File> {
        let place = &self.by_hierarchy[hierarchy];
        let kept = match place.get() {
            Some(kept) => kept,
            None => {
                let Some(taken) = self.allowance.take() else {
                    return File::open(dir().join(name));
                };
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let dir = open(&dir(), flags, Mode::empty())?;
                // Another thread's is as good, if it was first.
                place.get_or_init(|| KeptDir { dir, _taken: taken })
            }
        };
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(openat(&kept.dir, name, flags, Mode::empty())?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    fn content(file: io::Result<File>) -> String {
        let mut text = String::new();
        file.unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn no_more_directories_are_kept_than_allowed_and_all_files_are_read() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        for dir in [&a, &b] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("file"), dir.to_str().unwrap()).unwrap();
        }
        let allowance = Arc::new(Allowance(AtomicU64::new(1)));
        let kept = KeptDirs::new(2, &allowance);
        for _ in 0..2 {
            assert_eq!(
                content(kept.open(0, || a.clone(), "file")),
                a.to_str().unwrap()
            );
            assert_eq!(
                content(kept.open(1, || b.clone(), "file")),
                b.to_str().unwrap()
            );
        }
        assert_eq!(allowance.0.load(Ordering::Relaxed), 0);
        drop(kept);
        assert_eq!(allowance.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_takes_nothing_of_the_allowance() {
        let root = tempfile::tempdir().unwrap();
        let allowance = Arc::new(Allowance(AtomicU64::new(1)));
        let kept = KeptDirs::new(1, &allowance);
        let missing = kept.open(0, || root.path().join("missing"), "file");
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(allowance.0.load(Ordering::Relaxed), 1);
    }
}
