//! A terminal from the container's own devpts.

use super::execute;
use crate::error::{Context, StartError};
use crate::plan::WindowSize;
use crate::report::Reporter;
use crate::spec::ProcessPlan;
use crisp_sys::mount::{Recursion, attach, clone_mount_at};
use crisp_sys::path::{Symlinks, create_file_in_root, open_in_root};
use crisp_sys::terminal::{make_controlling, open_peer, set_size};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, makedev};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::fchown;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Both sides of a pty.
pub(super) struct Terminal {
    master: OwnedFd,
    peer: OwnedFd,
}

/// Opens a terminal. A running container may have put anything at the path, so what is opened is
/// looked at.
pub(super) fn open(
    root: &OwnedFd,
    size: WindowSize,
    process: &ProcessPlan,
) -> Result<Terminal, StartError> {
    let path = Path::new("/dev/pts/ptmx");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = open_in_root(root, path, flags, Symlinks::Refuse).step("open", path)?;
    verify_ptmx(&master).step("find a terminal at", path)?;
    let peer = open_peer(&master).step("open the terminal of", path)?;
    let size = match size {
        WindowSize {
            columns: 0,
            rows: 0,
        } => process.window_size,
        given => given,
    };
    if size != WindowSize::default() {
        set_size(&master, size.columns, size.rows).step("set the size of the terminal", "")?;
    }
    Ok(Terminal { master, peer })
}

/// Major 5, minor 2 is the multiplexer of whichever devpts it lies in
/// (Documentation/filesystems/devpts.rst).
fn verify_ptmx(master: &OwnedFd) -> nix::Result<()> {
    let is_devpts = fstatfs(master)?.filesystem_type() == DEVPTS_SUPER_MAGIC;
    let is_ptmx = fstat(master)?.st_rdev == makedev(5, 2);
    match is_devpts && is_ptmx {
        true => Ok(()),
        false => Err(Errno::ENOTTY),
    }
}

/// Shows the terminal at /dev/console. The descriptor is what is mounted, whatever its path leads to.
pub(super) fn bind_console(root: &OwnedFd, terminal: &Terminal) -> Result<(), StartError> {
    let path = Path::new("/dev/console");
    let mount =
        clone_mount_at(&terminal.peer, Recursion::This).step("clone the terminal for", path)?;
    let target = create_file_in_root(root, path, Mode::from_bits_truncate(0o600))
        .step("make the mount point", path)?;
    attach(mount, target).step("attach the terminal at", path)
}

impl Terminal {
    /// Makes it the standard descriptors and the controlling terminal, and hands the master over.
    pub(super) fn install(
        &self,
        process: &ProcessPlan,
        reporter: &Reporter,
    ) -> Result<(), StartError> {
        let peer = &self.peer;
        fchown(peer, Some(process.uid), None).step("change the owner of the terminal", "")?;
        make_controlling(peer).step("take the terminal", "")?;
        execute::install([peer.as_fd(), peer.as_fd(), peer.as_fd()])?;
        reporter
            .terminal(self.master.as_fd())
            .step("hand over the terminal", "")
    }
}
