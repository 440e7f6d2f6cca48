//! Nodes that lose power: what is on disk stays, and whatever the kernel had is gone.

use crate::leftovers;
use crate::node::Node;
use crate::slot::Slot;
use anyhow::{Result, ensure};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;
use std::process::Command;
use toml::Table;

/// In a node's directory: what its daemon is to read as the id of the host's boot. Without the file it
/// reads the host's own.
pub(crate) const BOOT_ID: &str = "boot-id";

/// In a mount table of its own: has the file that is its first argument be that of the boot's id, and becomes
/// the program that follows.
const ENTER_BOOT: &str = r#"mount --make-private /proc &&
    mount --bind "$0" /proc/sys/kernel/random/boot_id &&
    exec "$@""#;

/// Lets a node be rebooted, whose configuration this is: mounts of its daemon are seen outside of the mount
/// table that the daemon has after a reboot.
///
/// # Panics
/// Without root.
pub fn allow_reboots(config: &Table) {
    let root = config["root_dir"].as_str().expect("each node has its own");
    let dir = Path::new(root).parent().expect("it is in the slot's");
    let bind = |source: Option<&Path>, flags| mount(source, dir, None::<&str>, flags, None::<&str>);
    bind(Some(dir), MsFlags::MS_BIND).expect("root can mount");
    // Of a peer group of its own, whatever the host's mounts are.
    for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        bind(None, propagation).expect("it is a mount");
    }
}

impl Node {
    /// Has the host lose power and come up again, but for the daemon, which was killed before and may be
    /// started now. The node is one that [`allow_reboots`] was called for.
    ///
    /// # Errors
    /// The daemon runs.
    pub fn reboot(&self) -> Result<()> {
        ensure!(self.daemon_pid().is_none(), "the daemon runs");
        leftovers::sweep_kernel(self.slot(), self.mounts_before());
        for volatile in [self.run_dir(), self.netns_dir()] {
            if volatile.exists() {
                fs::remove_dir_all(volatile)?;
            }
        }
        let boot_id = fs::read("/proc/sys/kernel/random/uuid")?;
        Ok(fs::write(self.dir().join(BOOT_ID), boot_id)?)
    }
}

/// A program that is started on a slot's machine, and reads the id of the node's boot.
pub(crate) fn command(slot: &Slot, program: &Path) -> Command {
    let boot_id = slot.dir().join(BOOT_ID);
    if !boot_id.exists() {
        return slot.command(program);
    }
    let mut command = slot.command("unshare");
    command.args([
        "--mount",
        "--propagation",
        "unchanged",
        "sh",
        "-c",
        ENTER_BOOT,
    ]);
    command.arg(boot_id).arg(program);
    command
}
