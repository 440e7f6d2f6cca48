//! The root file system as a detached mount.

use super::overlay;
use crate::error::{Context, StartError};
use crate::plan::{ContainerPlan, Overlay as Layers, Rootfs};
use crate::spec::{Container, IdMaps};
use crisp_sys::mount::{Change, Overlay, Propagation, Recursion, Upper, change, clone_mount};
use crisp_sys::process::SingleThreaded;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// `users`: the container's user namespace, through whose mapping files get their owners.
pub(crate) fn make(
    plan: &ContainerPlan<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
    witness: &SingleThreaded,
) -> Result<OwnedFd, StartError> {
    match &plan.rootfs {
        Rootfs::Overlay(layers) => {
            forget_failed_start(layers.work_dir)?;
            own_upper(layers.upper_dir, &container.id_maps)?;
            layered(layers, container, users, witness)
        }
        Rootfs::Mounted(root) => mounted(*root, container, users),
        Rootfs::Directory => directory(plan, container, users),
    }
}

fn mounted(
    root: BorrowedFd<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, StartError> {
    if users.is_some() || container.mount_label.is_some() {
        return Err(StartError::invalid(
            "a root that is mounted already takes no user namespace and no linux.mountLabel",
        ));
    }
    root.try_clone_to_owned().step("take the root", "")
}

fn layered(
    layers: &Layers<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
    witness: &SingleThreaded,
) -> Result<OwnedFd, StartError> {
    let overlay = Overlay {
        lower_dirs: layers.lower_dirs,
        upper: Some(Upper {
            upper_dir: layers.upper_dir,
            work_dir: layers.work_dir,
            volatile: true,
        }),
        context: container.mount_label.as_deref(),
        id_map: users,
    };
    overlay::mount(&overlay, layers.upper_dir, witness)
}

/// A volatile layer that was mounted before is refused, since what was written to it may be lost (kernel,
/// overlayfs.rst, "Volatile mount"). A start that failed loses nothing: the host has not gone down since.
fn forget_failed_start(work_dir: &Path) -> Result<(), StartError> {
    let mark = work_dir.join("work/incompat/volatile");
    match fs::remove_dir_all(&mark) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.step("remove", &mark),
    }
}

/// The upper directory shows as the root directory, so that its owner must have an id inside. An owner
/// without one was changed before.
fn own_upper(upper_dir: &Path, maps: &IdMaps) -> Result<(), StartError> {
    if maps.is_empty() {
        return Ok(());
    }
    let stat = fs::metadata(upper_dir).step("look at", upper_dir)?;
    let (uid, gid) = (maps.outside_uid(stat.uid()), maps.outside_gid(stat.gid()));
    chown(upper_dir, uid, gid).step("change the owner of", upper_dir)
}

fn directory(
    plan: &ContainerPlan<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, StartError> {
    let path = plan.bundle.join(&container.root.path);
    let root = clone_mount(&path, Recursion::WholeTree).step("open the root at", &path)?;
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    change(&root, &private, Recursion::WholeTree).step("make private", &path)?;
    if users.is_some() {
        let mapped = Change {
            id_map: users,
            ..Change::default()
        };
        change(&root, &mapped, Recursion::This).step("map the owners of", &path)?;
    }
    Ok(root)
}
