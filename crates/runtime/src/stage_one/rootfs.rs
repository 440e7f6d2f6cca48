//! The root file system as a detached mount.

use crate::error::{Context, StartError};
use crate::plan::{ContainerPlan, Overlay as Layers, Rootfs};
use crate::spec::{Container, IdMaps};
use crate::stage_two::hide_from_host;
use crisp_sys::mount::{
    Attributes, Change, FsContext, Overlay, Propagation, Recursion, Upper, attach_at, change,
    clone_mount,
};
use crisp_sys::namespace::{Kind, unshare};
use crisp_sys::process::SingleThreaded;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, fchdir};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// `users`: the container's user namespace, through whose mapping files get their owners.
pub(super) fn make(
    plan: &ContainerPlan<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
    witness: &SingleThreaded,
) -> Result<OwnedFd, StartError> {
    match &plan.rootfs {
        Rootfs::Overlay(layers) => {
            own_upper(layers.upper_dir, &container.id_maps)?;
            overlay(layers, container, users, witness)
        }
        Rootfs::Directory => directory(plan, container, users),
    }
}

fn overlay(
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
    let mounted = match overlay.needs_staging() {
        true => {
            let staging = staging(witness)?;
            let mounted = overlay.mount_attaching(staging.as_fd());
            detach(&staging)?;
            mounted
        }
        false => overlay.mount(),
    };
    mounted.step("over", layers.upper_dir)
}

/// An empty directory to attach mounts in, where nobody sees them: in a mount namespace of this
/// stage's own, on top of the root, where no path leads to.
fn staging(witness: &SingleThreaded) -> Result<OwnedFd, StartError> {
    let root = Path::new("/");
    unshare(Kind::Mount.flag(), witness).step("make a mount namespace", "")?;
    hide_from_host()?;
    let staging = FsContext::open("tmpfs")
        .and_then(|context| context.mount(Attributes::NONE))
        .step("on", root)?;
    attach_at(&staging, root).step("attach a mount at", root)?;
    Ok(staging)
}

/// The mounts of the staging directory would be locked in the mount namespace that the container's
/// user namespace owns, and the root below them could not be taken out of it.
fn detach(staging: &OwnedFd) -> Result<(), StartError> {
    fchdir(staging)
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .step("detach the lower directories", "")
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
