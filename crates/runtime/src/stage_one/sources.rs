//! What is mounted in a container and comes from the host, as detached mounts.

use super::users::new_namespace;
use super::{overlay, propagation};
use crate::error::{Context, StartError};
use crate::plan::ContainerPlan;
use crate::spec::{Container, IdMapped, MountPlan, Options, Source};
use crisp_sys::mount::{Attributes, Change, Overlay, Propagation, Recursion, change, clone_mount};
use crisp_sys::namespace::Kind;
use crisp_sys::process::SingleThreaded;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The type of file system that shows the devices of a network namespace.
const SYSFS: &str = "sysfs";

/// A mount of the plan and what there is of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: MountPlan,
    pub(crate) opened: Opened,
}

/// What the first stage could make of a mount.
#[derive(Debug)]
pub(crate) enum Opened {
    /// All of it.
    Mount(OwnedFd),
    /// Nothing: a file system that is made in the container's namespaces.
    FileSystem,
    /// The container's own directories in the hierarchies of version 1.
    CgroupDirs(Vec<CgroupDir>),
}

/// The container's directory in one hierarchy of version 1.
#[derive(Debug)]
pub(crate) struct CgroupDir {
    /// Where the host mounts the hierarchy, such as `cpu,cpuacct`.
    pub(crate) name: String,
    pub(crate) mount: OwnedFd,
}

pub(super) fn open(
    plan: &ContainerPlan<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
    witness: &SingleThreaded,
) -> Result<Vec<Prepared>, StartError> {
    let is_overlay = |mount: &MountPlan| matches!(mount.source, Source::Overlay { .. });
    let mut order: Vec<(usize, &MountPlan)> = container.mounts.iter().enumerate().collect();
    // An overlay may leave the host's mount namespace, of which the others are clones.
    order.sort_by_key(|(_, mount)| is_overlay(mount));
    let mut all = Vec::with_capacity(order.len() + 1);
    for (place, mount) in order {
        let opened = open_one(plan, container, mount, users, witness)?;
        let plan = mount.clone();
        all.push((place, Prepared { plan, opened }));
    }
    all.sort_by_key(|(place, _)| *place);
    let mut all = all.into_iter().map(|(_, prepared)| prepared).collect();
    if let Some(shm) = plan.shm {
        insert_shm(&mut all, shm)?;
    }
    Ok(all)
}

/// Opens those mounts that not every runtime can make: layered ones, those with mapped owners or options
/// for a whole tree, and the host's sysfs in place of one's own. Each with its place among the spec's
/// mounts.
pub(crate) fn open_demanding(
    plan: &ContainerPlan<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
    witness: &SingleThreaded,
) -> Result<Vec<(usize, OwnedFd)>, StartError> {
    let mut demanding = Vec::new();
    for (place, mount) in container.mounts.iter().enumerate() {
        if is_demanding(mount)
            && let Opened::Mount(opened) = open_one(plan, container, mount, users, witness)?
        {
            demanding.push((place, opened));
        }
    }
    Ok(demanding)
}

fn is_demanding(mount: &MountPlan) -> bool {
    let options = &mount.options;
    let of_tree = options.set_recursively | options.clear_recursively;
    match &mount.source {
        Source::Overlay { .. } => true,
        Source::Bind { .. } => options.id_mapped.is_some() || of_tree != Attributes::NONE,
        Source::FileSystem { fs_type, .. } => fs_type == SYSFS,
        Source::Cgroup => false,
    }
}

fn open_one(
    plan: &ContainerPlan<'_>,
    container: &Container,
    mount: &MountPlan,
    users: Option<BorrowedFd<'_>>,
    witness: &SingleThreaded,
) -> Result<Opened, StartError> {
    Ok(match &mount.source {
        Source::Bind { path, recursion } => {
            let users = id_map_of(&mount.options, users, witness)?;
            let users = users.as_ref().map(Users::as_fd);
            Opened::Mount(bind(path, *recursion, &mount.options, users)?)
        }
        Source::Overlay { lower_dirs } => {
            let users = id_map_of(&mount.options, users, witness)?;
            let overlay = Overlay {
                lower_dirs,
                upper: None,
                context: container.mount_label.as_deref(),
                id_map: users.as_ref().map(Users::as_fd),
            };
            Opened::Mount(read_only_overlay(&overlay, mount, witness)?)
        }
        Source::FileSystem { fs_type, .. } if fs_type == SYSFS && users.is_some() => {
            sysfs(container)?
        }
        Source::FileSystem { .. } => Opened::FileSystem,
        Source::Cgroup => cgroups(plan.cgroup_dirs, &mount.options)?,
    })
}

/// Its lower directories are what is id-mapped: overlayfs has no id-mapped mounts.
fn read_only_overlay(
    overlay: &Overlay<'_>,
    mount: &MountPlan,
    witness: &SingleThreaded,
) -> Result<OwnedFd, StartError> {
    let target = &mount.target;
    let made = overlay::mount(overlay, target, witness)?;
    for (step, recursion) in mount.options.changes() {
        change(&made, &step, recursion).step("set the options of the mount at", target)?;
    }
    Ok(made)
}

/// A user namespace that maps the owners of a mount's files.
enum Users<'a> {
    Containers(BorrowedFd<'a>),
    Own(OwnedFd),
}

impl Users<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Containers(fd) => *fd,
            Self::Own(fd) => fd.as_fd(),
        }
    }
}

fn id_map_of<'a>(
    options: &Options,
    users: Option<BorrowedFd<'a>>,
    witness: &SingleThreaded,
) -> Result<Option<Users<'a>>, StartError> {
    match &options.id_mapped {
        None => Ok(None),
        Some(IdMapped {
            maps: Some(maps), ..
        }) => new_namespace(maps, witness).map(|users| Some(Users::Own(users))),
        Some(IdMapped { maps: None, .. }) => {
            users.map(Users::Containers).map(Some).ok_or_else(|| {
                StartError::invalid("an id-mapped mount needs mappings or a user namespace")
            })
        }
    }
}

fn bind(
    path: &Path,
    recursion: Recursion,
    options: &Options,
    users: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, StartError> {
    if let Some((wanted, _)) = options.propagation {
        propagation::verify(path, wanted)?;
    }
    let mount = clone_mount(path, recursion).step("open mount source", path)?;
    apply(&mount, options, users).step("set the options of the mount of", path)?;
    Ok(mount)
}

/// Applies all options to a detached mount. The id mapping comes first: it can be set once, before
/// anything else has used the mount.
fn apply(mount: &OwnedFd, options: &Options, users: Option<BorrowedFd<'_>>) -> nix::Result<()> {
    if let Some(IdMapped { recursion, .. }) = options.id_mapped {
        let mapped = Change {
            id_map: users,
            ..Change::default()
        };
        change(mount, &mapped, recursion)?;
    }
    for (step, recursion) in options.changes() {
        change(mount, &step, recursion)?;
    }
    Ok(())
}

/// A user namespace that does not own the network namespace cannot mount its sysfs. It gets the host's
/// read-only, without what the host has mounted below, as one of its own would be.
fn sysfs(container: &Container) -> Result<Opened, StartError> {
    if container.namespaces.has(Kind::Network) {
        return Ok(Opened::FileSystem);
    }
    let path = Path::new("/sys");
    let mount = clone_mount(path, Recursion::This).step("open mount source", path)?;
    let confined = Change {
        set: Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC,
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    change(&mount, &confined, Recursion::This).step("make read-only the mount of", path)?;
    Ok(Opened::Mount(mount))
}

/// On version 2 the container mounts the file system itself, in a cgroup namespace. On version 1 it
/// sees its own directory of each hierarchy.
fn cgroups(dirs: &[PathBuf], options: &Options) -> Result<Opened, StartError> {
    let host = Path::new("/sys/fs/cgroup");
    let fs_type = statfs(host).step("look at", host)?.filesystem_type();
    if fs_type == CGROUP2_SUPER_MAGIC {
        return Ok(Opened::FileSystem);
    }
    let confined = Change {
        set: options.of_hierarchies(),
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    let own = dirs.iter().filter_map(|dir| Some((dir, hierarchy(dir)?)));
    own.map(|(dir, name)| {
        let mount = clone_mount(dir, Recursion::This).step("open cgroup", dir)?;
        change(&mount, &confined, Recursion::This).step("set the options of", dir)?;
        Ok(CgroupDir { name, mount })
    })
    .collect::<Result<_, _>>()
    .map(Opened::CgroupDirs)
}

/// The name of the hierarchy that a directory is in: by convention (systemd, FHS of cgroups) it is
/// mounted right below /sys/fs/cgroup.
fn hierarchy(dir: &Path) -> Option<String> {
    let below = dir.strip_prefix("/sys/fs/cgroup").ok()?;
    let first = below.components().next()?;
    Some(first.as_os_str().to_str()?.to_owned())
}

/// The pod's /dev/shm comes right after /dev, so that a mount of the spec at the same path or below
/// covers it.
fn insert_shm(all: &mut Vec<Prepared>, shm: BorrowedFd<'_>) -> Result<(), StartError> {
    let options = shm_options();
    let mount = own_shm(shm)?;
    let dev = all
        .iter()
        .position(|mount| mount.plan.target == Path::new("/dev"));
    let prepared = Prepared {
        plan: MountPlan {
            target: "/dev/shm".into(),
            source: Source::Bind {
                path: "/dev/shm".into(),
                recursion: Recursion::This,
            },
            options,
        },
        opened: Opened::Mount(mount),
    };
    all.insert(dev.map_or(0, |dev| dev + 1), prepared);
    Ok(())
}

/// The pod's /dev/shm as a mount of one container.
pub(crate) fn own_shm(shm: BorrowedFd<'_>) -> Result<OwnedFd, StartError> {
    let mount = shm
        .try_clone_to_owned()
        .step("keep the pod's /dev/shm", "")?;
    apply(&mount, &shm_options(), None).step("set the options of the pod's /dev/shm", "")?;
    Ok(mount)
}

fn shm_options() -> Options {
    Options {
        set: Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC,
        propagation: Some((Propagation::Private, Recursion::This)),
        ..Options::default()
    }
}
