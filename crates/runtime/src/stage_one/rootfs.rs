//! The root file system as a detached mount.

use crate::error::{Context, StartError};
use crate::plan::{ContainerPlan, Rootfs};
use crate::spec::Container;
use crisp_sys::mount::{Change, Overlay, Propagation, Recursion, Upper, change, clone_mount};
use std::os::fd::{BorrowedFd, OwnedFd};

/// `users`: the container's user namespace, through whose mapping files get their owners.
pub(super) fn make(
    plan: &ContainerPlan<'_>,
    container: &Container,
    users: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, StartError> {
    match &plan.rootfs {
        Rootfs::Overlay(layers) => Overlay {
            lower_dirs: layers.lower_dirs,
            upper: Some(Upper {
                upper_dir: layers.upper_dir,
                work_dir: layers.work_dir,
                volatile: true,
            }),
            context: container.mount_label.as_deref(),
            id_map: users,
        }
        .mount()
        .step("over", layers.upper_dir),
        Rootfs::Directory => directory(plan, container, users),
    }
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
