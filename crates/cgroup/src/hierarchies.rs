//! What this host has: its hierarchies, and which controllers they carry.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::controller::{Controller, Version};
use crate::file_ids::FileId;
use crate::top::Top;
use crate::{Cgroup, CgroupPath, Error, create, file, mountinfo};

/// The control group hierarchies of a host, found once and cheap to clone.
#[derive(Debug, Clone)]
pub struct Hierarchies(Arc<Found>);

#[derive(Debug)]
struct Found {
    version: Version,
    mounts: Vec<Mount>,
    /// Of the unified hierarchy on version 2, of all others together on version 1.
    controllers: Vec<Controller>,
    /// That of each; none where it could not be opened.
    tops: Vec<Option<Top>>,
    /// Whether the memory of every cgroup counts for its ancestors, without being told to.
    accounts_hierarchically: bool,
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
    pub(crate) kind: MountKind,
}

/// What a hierarchy carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// The version 2 hierarchy; on a hybrid host it has no controllers.
    Unified,
    /// Version 1 controllers mounted together; none in the hierarchy that systemd tracks its units in.
    Controllers(Vec<Controller>),
}

impl Mount {
    pub(crate) fn carries(&self, controller: Controller) -> bool {
        matches!(&self.kind, MountKind::Controllers(all) if all.contains(&controller))
    }

    pub(crate) fn is_unified(&self) -> bool {
        self.kind == MountKind::Unified
    }

    /// Whether what [`Hierarchies::create_idle`] makes is made here.
    fn is_for_idle(&self, version: Version) -> bool {
        let looked_at = [Controller::Cpu, Controller::CpuAcct];
        match &self.kind {
            MountKind::Unified => version == Version::V2,
            MountKind::Controllers(all) => {
                !all.is_empty() && all.iter().all(|one| looked_at.contains(one))
            }
        }
    }
}

impl Hierarchies {
    /// What is mounted, according to `/proc/self/mountinfo`.
    pub fn detect() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::from_mounts(mountinfo::hierarchies(&text))
    }

    /// What is below `root`, a directory like `/sys/fs/cgroup`: the version 2 hierarchy itself, or one
    /// directory per version 1 hierarchy, named for its controllers, with `systemd` and `unified` beside.
    pub fn at(root: &Path) -> Result<Self, Error> {
        let unified = |dir: &Path| Mount {
            dir: dir.into(),
            kind: MountKind::Unified,
        };
        if root.join("cgroup.controllers").exists() {
            return Self::from_mounts(vec![unified(root)]);
        }
        let mut mounts = Vec::new();
        for dir in file::children(root).map_err(Error::io("list", root))? {
            let name = dir
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let kind = match name {
                "unified" => Some(MountKind::Unified),
                "systemd" => Some(MountKind::Controllers(Vec::new())),
                names => mountinfo::v1_kind(names),
            };
            mounts.extend(kind.map(|kind| Mount { dir, kind }));
        }
        mounts.sort_by(|a, b| a.dir.cmp(&b.dir));
        Self::from_mounts(mounts)
    }

    fn from_mounts(mounts: Vec<Mount>) -> Result<Self, Error> {
        let on_v1: Vec<_> = Controller::ALL
            .into_iter()
            .filter(|controller| mounts.iter().any(|mount| mount.carries(*controller)))
            .collect();
        if !on_v1.is_empty() {
            let tops = mounts.iter().map(|mount| Top::open(&mount.dir)).collect();
            let memory = mounts.iter().find(|m| m.carries(Controller::Memory));
            return Ok(Self(Arc::new(Found {
                version: Version::V1,
                // What the topmost does, all below it do.
                accounts_hierarchically: memory
                    .is_some_and(|m| create::has_children_counted(&m.dir)),
                mounts,
                controllers: on_v1,
                tops,
            })));
        }
        let unified = mounts
            .into_iter()
            .find(Mount::is_unified)
            .ok_or(Error::NoCgroups)?;
        let controllers = file::read(&unified.dir, "cgroup.controllers")
            .map_err(Error::io("read cgroup.controllers in", &unified.dir))?
            .split_whitespace()
            .filter_map(|name| Controller::from_name(name, Version::V2))
            .collect();
        let tops = vec![Top::open(&unified.dir)];
        Ok(Self(Arc::new(Found {
            version: Version::V2,
            mounts: vec![unified],
            controllers,
            tops,
            accounts_hierarchically: true,
        })))
    }

    /// Whether a new cgroup need not be told to have its memory count for its ancestors.
    pub(crate) fn accounts_hierarchically(&self) -> bool {
        self.0.accounts_hierarchically
    }

    /// Which interface carries the controllers.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The controllers that there are.
    #[must_use]
    pub fn controllers(&self) -> &[Controller] {
        &self.0.controllers
    }

    /// The controllers that this version of the interface could have and this host has not.
    #[must_use]
    pub fn lacks(&self) -> Vec<Controller> {
        Controller::ALL
            .into_iter()
            .filter(|controller| controller.exists_on(self.version()) && !self.has(*controller))
            .collect()
    }

    /// Whether the controller is there.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.0.controllers.contains(&controller)
    }

    /// Makes the cgroup in all hierarchies, with its parents; one that exists is left as it is.
    ///
    /// Version 1: a cpuset that is empty inherits the cpus and memory nodes of its nearest ancestor that
    /// is not. Version 2: all controllers are enabled for it, as far as the ancestors allow to. When it
    /// fails, what it made is removed.
    pub fn create(&self, path: &CgroupPath) -> Result<Cgroup, Error> {
        create::create(self, self.mounts().iter(), path)?;
        Ok(self.open(path))
    }

    /// Makes a cgroup for a process that uses next to nothing, below one that exists, and gives the directory to
    /// join in each hierarchy.
    ///
    /// On version 1 it has one of its own where cAdvisor looks for it, by its cpu time; elsewhere it joins its parent.
    /// Each that it has takes a hundredth of a pod's start; and the end of one for memory or for cpus has the kernel
    /// walk through the lists of all file systems that are mounted, or through all cpusets, while nobody can make
    /// another one.
    pub fn create_idle(&self, path: &CgroupPath) -> Result<Vec<PathBuf>, Error> {
        let is_for_idle = |mount: &Mount| mount.is_for_idle(self.version());
        let own = self.mounts().iter().filter(|mount| is_for_idle(mount));
        create::create(self, own, path)?;
        let parent = path.parent().unwrap_or_else(CgroupPath::root);
        let dirs = self.mounts().iter().map(|mount| match is_for_idle(mount) {
            true => path.below(&mount.dir),
            false => parent.below(&mount.dir),
        });
        Ok(dirs.collect())
    }

    /// The cgroup of that path, whether it exists or not; no I/O.
    #[must_use]
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup::new(self.clone(), path.clone())
    }

    /// Every cgroup that has one of these names, wherever it is, in any hierarchy. Walks through all cgroups
    /// of the host.
    #[must_use]
    pub fn find(&self, names: &HashSet<String>) -> BTreeSet<CgroupPath> {
        let mut found = BTreeSet::new();
        for mount in self.mounts() {
            let dirs = file::descendants(&mount.dir).into_iter();
            let paths = dirs.filter_map(|dir| {
                let path = dir.strip_prefix(&mount.dir).ok()?.to_str()?;
                CgroupPath::parse(path).ok()
            });
            found.extend(paths.filter(|path| names.contains(path.name())));
        }
        found
    }

    /// The cgroup that a CRI `cgroup_parent` means, see [`CgroupPath::from_parent`].
    pub fn resolve_parent(&self, cgroup_parent: Option<&str>) -> Result<CgroupPath, Error> {
        CgroupPath::from_parent(cgroup_parent)
    }

    pub(crate) fn mounts(&self) -> &[Mount] {
        &self.0.mounts
    }

    /// A file of a cgroup in one of the hierarchies, open for reading; by its id, if it is to be read again.
    pub(crate) fn open_file(
        &self,
        mount: &Mount,
        path: &CgroupPath,
        name: &str,
        id: Option<FileId<'_>>,
    ) -> io::Result<File> {
        match (self.top_of(mount), id) {
            (None, _) => File::open(path.below(&mount.dir).join(name)),
            (Some(top), None) => top.file(path, name),
            (Some(top), Some(id)) => top.file_again(path, name, id),
        }
    }

    /// Makes the directory of a cgroup in one of the hierarchies, in that of its parent.
    pub(crate) fn make_dir(&self, mount: &Mount, path: &CgroupPath) -> io::Result<()> {
        match self.top_of(mount) {
            None => fs::create_dir(path.below(&mount.dir)),
            Some(top) => top.make(path),
        }
    }

    fn top_of(&self, mount: &Mount) -> Option<&Top> {
        let mut all = self.mounts().iter().zip(&self.0.tops);
        let (_, top) = all.find(|(one, _)| std::ptr::eq(*one, mount))?;
        top.as_ref()
    }

    /// Where the controller's files are.
    pub(crate) fn mount_of(&self, controller: Controller) -> Option<&Mount> {
        let mut mounts = self.0.mounts.iter();
        match self.0.version {
            Version::V1 => mounts.find(|mount| mount.carries(controller)),
            Version::V2 => mounts.next().filter(|_| self.has(controller)),
        }
    }

    /// The version 2 hierarchy of a hybrid host.
    pub(crate) fn hybrid(&self) -> Option<&Mount> {
        self.unified().filter(|_| self.version() == Version::V1)
    }

    /// The version 2 hierarchy, with or without controllers.
    pub(crate) fn unified(&self) -> Option<&Mount> {
        self.0.mounts.iter().find(|mount| mount.is_unified())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_1_directory_is_recognised_with_what_it_lacks() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["cpu,cpuacct", "memory", "systemd", "unified", "net_cls"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", root.path().join("cpu")).unwrap();
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        assert_eq!(hierarchies.version(), Version::V1);
        assert_eq!(hierarchies.mounts().len(), 4);
        assert_eq!(
            hierarchies.controllers(),
            [Controller::Cpu, Controller::CpuAcct, Controller::Memory]
        );
        assert!(hierarchies.lacks().contains(&Controller::Pids));
        let path = CgroupPath::parse("/a").unwrap();
        assert_eq!(hierarchies.open(&path).dirs().len(), 4);
    }

    #[test]
    fn a_version_2_directory_is_recognised_with_what_it_lacks() {
        let root = tempfile::tempdir().unwrap();
        fs::write(
            root.path().join("cgroup.controllers"),
            "cpuset cpu io memory pids rdma misc\n",
        )
        .unwrap();
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        assert_eq!(hierarchies.version(), Version::V2);
        assert_eq!(hierarchies.controllers().len(), 5);
        assert!(hierarchies.has(Controller::BlkIo));
        assert_eq!(hierarchies.lacks(), [Controller::HugeTlb]);
    }

    #[test]
    fn cgroups_are_found_by_name_in_any_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["cpu/a/x", "pids/a/x", "pids/b/c/x", "pids/x1"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let found = hierarchies.find(&HashSet::from(["x".to_owned()]));
        let expected = ["/a/x", "/b/c/x"].map(|path| CgroupPath::parse(path).unwrap());
        assert_eq!(found, BTreeSet::from(expected));
    }

    #[test]
    fn an_idle_cgroup_of_version_1_shares_what_nobody_looks_at_with_its_parent() {
        let root = tempfile::tempdir().unwrap();
        for dir in [
            "cpu/pod",
            "cpuset/pod",
            "memory/pod",
            "systemd/pod",
            "unified/pod",
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let path = CgroupPath::parse("/pod/pause").unwrap();
        let expected = [
            "cpu/pod/pause",
            "cpuset/pod",
            "memory/pod",
            "systemd/pod",
            "unified/pod",
        ];
        assert_eq!(
            hierarchies.create_idle(&path).unwrap(),
            expected.map(|dir| root.path().join(dir))
        );
        assert!(root.path().join("cpu/pod/pause").is_dir());
        for hierarchy in ["memory", "systemd", "unified"] {
            assert!(!root.path().join(hierarchy).join("pod/pause").exists());
        }
    }

    #[test]
    fn a_directory_without_cgroups_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(
            Hierarchies::at(root.path()),
            Err(Error::NoCgroups)
        ));
    }
}
