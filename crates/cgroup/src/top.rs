//! The top of a hierarchy, from which its cgroups are made and their files opened for reading.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crisp_sys::kernfs;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::CgroupPath;
use crate::file_ids::FileId;

const FOR_READING: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC);

/// Open: the way to it from `/` is a quarter of what it takes to open a file, and a tenth of making a cgroup.
#[derive(Debug)]
pub(crate) struct Top {
    directory: OwnedFd,
    /// Whether files can be opened by their ids, as far as was seen.
    has_ids: AtomicBool,
}

impl Top {
    /// None: it cannot be opened now.
    pub(crate) fn open(hierarchy: &Path) -> Option<Self> {
        // Not with O_PATH: files are found by their ids from a directory that is open for reading.
        let flags = FOR_READING | OFlag::O_DIRECTORY;
        Some(Self {
            directory: open(hierarchy, flags, Mode::empty()).ok()?,
            has_ids: AtomicBool::new(true),
        })
    }

    /// Makes the directory of a cgroup in that of its parent.
    pub(crate) fn make(&self, path: &CgroupPath) -> io::Result<()> {
        // As std::fs::create_dir does.
        let mode = Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO;
        Ok(mkdirat(&self.directory, path.relative(), mode)?)
    }

    /// A file of a cgroup, by its name.
    pub(crate) fn file(&self, path: &CgroupPath, name: &str) -> io::Result<File> {
        let below = below(path, name);
        Ok(openat(&self.directory, below.as_str(), FOR_READING, Mode::empty())?.into())
    }

    /// The same by its id, which is learned if it is not known, or is that of a file that is no more.
    pub(crate) fn file_again(
        &self,
        path: &CgroupPath,
        name: &str,
        id: FileId<'_>,
    ) -> io::Result<File> {
        if !self.has_ids.load(Ordering::Relaxed) {
            return self.file(path, name);
        }
        match self.by_id(path, name, id) {
            Ok(file) => return Ok(file.into()),
            Err(Errno::ESTALE) => id.set(None),
            // It is no such file system, or this process may not.
            Err(Errno::EPERM | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                self.has_ids.store(false, Ordering::Relaxed);
            }
            Err(error) => return Err(error.into()),
        }
        self.file(path, name)
    }

    fn by_id(&self, path: &CgroupPath, name: &str, id: FileId<'_>) -> nix::Result<OwnedFd> {
        let known = match id.get() {
            Some(known) => known,
            None => kernfs::id(&self.directory, &below(path, name))?,
        };
        let file = kernfs::open(&self.directory, known, FOR_READING)?;
        id.set(Some(known));
        Ok(file)
    }
}

fn below(path: &CgroupPath, name: &str) -> String {
    format!("{}/{name}", path.relative())
}
