//! What a container sees, but not as it is: paths that are hidden, and paths that cannot be written.

use super::null;
use crate::error::{Context, StartError};
use crate::spec::Container;
use crisp_sys::mount::{Attributes, Change, FsContext, Recursion, attach, change, clone_mount_at};
use crisp_sys::path::{Symlinks, open_in_root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Makes paths read-only, then hides paths, some of which lie below the former. What does not exist
/// needs neither.
pub(super) fn apply(root: &OwnedFd, container: &Container) -> Result<(), StartError> {
    for path in &container.readonly_paths {
        if let Some(target) = find(root, path)? {
            make_read_only(&target).step("make read-only", path)?;
        }
    }
    let mut mask = Mask::default();
    for path in &container.masked_paths {
        if let Some(target) = find(root, path)? {
            mask.hide(root, &target, container, path)?;
        }
    }
    Ok(())
}

fn find(root: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>, StartError> {
    match open_in_root(root, path, OFlag::O_PATH, Symlinks::Follow) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        done => done.map(Some).step("open", path),
    }
}

/// Mounts a path over itself.
fn make_read_only(target: &OwnedFd) -> nix::Result<()> {
    let clone = clone_mount_at(target, Recursion::WholeTree)?;
    let read_only = Change {
        set: Attributes::READ_ONLY,
        ..Change::default()
    };
    change(&clone, &read_only, Recursion::WholeTree)?;
    attach(clone, target)
}

/// What is mounted over hidden directories: one empty tmpfs for all of them.
#[derive(Default)]
struct Mask {
    empty: Option<OwnedFd>,
}

impl Mask {
    fn hide(
        &mut self,
        root: &OwnedFd,
        target: &OwnedFd,
        container: &Container,
        path: &Path,
    ) -> Result<(), StartError> {
        let stat = fstat(target).step("look at", path)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            return self.hide_directory(target, container, path);
        }
        let null = null_device(root)?;
        attach(null, target).step("mask", path)
    }

    fn hide_directory(
        &mut self,
        target: &OwnedFd,
        container: &Container,
        path: &Path,
    ) -> Result<(), StartError> {
        if let Some(empty) = &self.empty {
            // It is attached already, so that it can be cloned on every kernel.
            let clone = clone_mount_at(empty, Recursion::This).step("mask", path)?;
            return attach(clone, target).step("mask", path);
        }
        let context = FsContext::open("tmpfs").step("to mask", path)?;
        context
            .set_string("source", "tmpfs")
            .step("to mask", path)?;
        context.set_string("nr_inodes", "1").step("to mask", path)?;
        context.set_string("mode", "755").step("to mask", path)?;
        if let Some(label) = &container.mount_label {
            context.set_string("context", label).step("to mask", path)?;
        }
        let confined =
            Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC;
        let empty = context.mount(confined).step("to mask", path)?;
        attach(empty.as_fd(), target).step("mask", path)?;
        self.empty = Some(empty);
        Ok(())
    }
}

/// A clone of the container's null device, which must be the device of that number: a file that only
/// goes by its name would show through the mask, and be writable.
fn null_device(root: &OwnedFd) -> Result<OwnedFd, StartError> {
    let path = Path::new("/dev/null");
    let null = open_in_root(root, path, OFlag::O_PATH, Symlinks::Refuse).step("open", path)?;
    let clone = clone_mount_at(&null, Recursion::This).step("clone", path)?;
    match null::is_null(&clone).step("look at", path)? {
        true => Ok(clone),
        false => Err(StartError::invalid(
            "/dev/null in the container is not the null device",
        )),
    }
}
