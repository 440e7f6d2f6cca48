//! One cgroup in all hierarchies: where it is, and its files read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::controller::Controller;
use crate::file_ids::FileIds;
use crate::hierarchies::{Hierarchies, Mount};
use crate::{CgroupPath, Error, file, parse};

/// A cgroup that may or may not exist: a name, not a handle. Cheap to make and to clone.
///
/// Its operations block, and are to be called where that is allowed.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: CgroupPath,
    /// None: it is not read again.
    ids: Option<Arc<FileIds>>,
}

impl Cgroup {
    pub(crate) fn new(hierarchies: Hierarchies, path: CgroupPath) -> Self {
        Self {
            hierarchies,
            path,
            ids: None,
        }
    }

    /// For one whose figures are read again and again: it, and all clones of it, remember where the kernel has its
    /// files, so that they are opened without a walk to them. Nothing is held open, and a cgroup of the same path
    /// that was made later is found as well.
    #[must_use]
    pub fn remembering_files(self) -> Self {
        Self {
            ids: Some(Arc::default()),
            ..self
        }
    }

    /// Its path in every hierarchy.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Whether it exists in all hierarchies; the one of version 2 on a hybrid host is not asked, as
    /// [`Self::remove`] takes a parent away there when its last child goes.
    #[must_use]
    pub fn exists(&self) -> bool {
        let hybrid = self.hierarchies.hybrid();
        let mut mounts = self.hierarchies.mounts().iter();
        mounts.all(|mount| Some(mount) == hybrid || self.dir_in(mount).is_dir())
    }

    /// One directory per hierarchy. A process joins by writing `0` to `cgroup.procs` in each of them.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        let mounts = self.hierarchies.mounts().iter();
        mounts.map(|mount| self.dir_in(mount)).collect()
    }

    pub(crate) fn cpu_max(&self) -> Result<Option<(Option<u64>, u64)>, Error> {
        self.value(Controller::Cpu, "cpu.max", parse::cpu_max)
    }

    /// None: no limit, or no such file.
    pub(crate) fn limit(&self, controller: Controller, file: &str) -> Result<Option<u64>, Error> {
        Ok(self.value(controller, file, parse::limit)?.flatten())
    }

    /// None: no such file.
    pub(crate) fn number(&self, controller: Controller, file: &str) -> Result<Option<u64>, Error> {
        self.value(controller, file, parse::number)
    }

    /// A file's content as `parse` understands it. None: no such file in a cgroup that exists.
    pub(crate) fn value<T>(
        &self,
        controller: Controller,
        file: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(mount) = self.hierarchies.mount_of(controller) else {
            return Ok(None);
        };
        let Some(text) = self.text(mount, file)? else {
            return Ok(None);
        };
        parse(&text).map(Some).ok_or_else(|| Error::Malformed {
            path: self.dir_in(mount).join(file),
            text,
        })
    }

    /// A file of the controller as it is. None: no such file in a cgroup that exists.
    pub(crate) fn content(
        &self,
        controller: Controller,
        file: &str,
    ) -> Result<Option<String>, Error> {
        match self.hierarchies.mount_of(controller) {
            Some(mount) => self.text(mount, file),
            None => Ok(None),
        }
    }

    /// A file as it is. None: no such file in a cgroup that exists.
    pub(crate) fn text(&self, mount: &Mount, file: &str) -> Result<Option<String>, Error> {
        match self.read(mount, file) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let dir = self.dir_in(mount);
                match file::is_gone(&error) && dir.is_dir() {
                    true => Ok(None),
                    false => Err(self.unreadable(&dir, error)),
                }
            }
        }
    }

    /// A file of its directory in a hierarchy.
    pub(crate) fn read(&self, mount: &Mount, file: &str) -> io::Result<String> {
        let id = self.ids.as_ref().and_then(|ids| ids.of(file));
        file::content(&self.hierarchies.open_file(mount, &self.path, file, id)?)
    }

    pub(crate) fn unreadable(&self, dir: &Path, error: io::Error) -> Error {
        match file::is_gone(&error) {
            true => Error::NotFound { path: dir.into() },
            false => Error::io("use", dir)(error),
        }
    }

    /// Where the controller's files of this cgroup are. None: the host lacks the controller.
    pub(crate) fn dir_of(&self, controller: Controller) -> Option<PathBuf> {
        let mount = self.hierarchies.mount_of(controller)?;
        Some(self.dir_in(mount))
    }

    /// Its directory in the version 2 hierarchy, with or without controllers.
    pub(crate) fn unified_dir(&self) -> Option<PathBuf> {
        let mount = self.hierarchies.unified()?;
        Some(self.dir_in(mount))
    }

    pub(crate) fn dir_in(&self, mount: &Mount) -> PathBuf {
        self.path.below(&mount.dir)
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    /// A version 2 hierarchy with one cgroup, `/pod`, that has these files.
    pub(crate) fn v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let root = tempfile::tempdir().unwrap();
        let controllers = "cpuset cpu io memory pids\n";
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        let pod = root.path().join("pod");
        fs::create_dir(&pod).unwrap();
        for (name, content) in files {
            fs::write(pod.join(name), content).unwrap();
        }
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let cgroup = hierarchies.open(&CgroupPath::parse("/pod").unwrap());
        (root, cgroup)
    }
}
