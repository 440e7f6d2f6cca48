//! Programs that share less with their host.

use crate::tools::run;
use crate::wait::unless_interrupted;
use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::path::Path;
use std::process::Command;
use tokio::runtime;

/// The address that [`make_network`] makes.
pub const OWN_ADDRESS: &str = "10.10.0.1";

/// Does a driver's work, unless it is interrupted, with the arguments of its command line and in networks and
/// mounts of its own. To be called before there is a second thread.
///
/// # Errors
/// There is no root; and those of the work.
pub fn run_apart<T>(work: impl AsyncFnOnce(Vec<String>) -> Result<T>) -> Result<T> {
    leave_host()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arguments = std::env::args().skip(1).collect();
    runtime.block_on(async { unless_interrupted(work(arguments)).await? })
}

/// The host's mounts that come later are seen, but none goes the other way.
fn leave_host() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    for propagation in [MsFlags::MS_SLAVE, MsFlags::MS_SHARED] {
        mount(none, "/", none, MsFlags::MS_REC | propagation, none)?;
    }
    Ok(())
}

/// Makes an interface with an address and a default route, by which programs find the address.
///
/// # Errors
/// There is one already.
pub fn make_network() -> Result<()> {
    let lines = format!(
        "link set lo up
        link add eth0 type bridge
        address add {OWN_ADDRESS}/24 dev eth0
        link set eth0 up
        route add default via 10.10.0.254 dev eth0"
    );
    for line in lines.lines().map(str::trim) {
        run(Command::new("ip").args(line.split(' ')))?;
    }
    Ok(())
}

/// Empty directories in fixed places of the host, for this program and all that it starts. Gone when
/// dropped.
#[derive(Debug, Default)]
pub struct OwnDirectories(Vec<OwnDirectory>);

#[derive(Debug)]
struct OwnDirectory {
    at: &'static str,
    /// Else the host has one there.
    was_made: bool,
}

impl OwnDirectories {
    /// Shows them; what comes to be in them is below a directory.
    ///
    /// # Errors
    /// They cannot be mounted.
    pub fn show(below: &Path, places: &[&'static str]) -> Result<Self> {
        let mut own = Self::default();
        for at in places {
            let dir = below.join(at.trim_start_matches('/').replace('/', "-"));
            let was_made = !Path::new(at).exists();
            fs::create_dir(&dir)?;
            fs::create_dir_all(at)?;
            own.0.push(OwnDirectory { at, was_made });
            let none = None::<&str>;
            mount(Some(&dir), *at, none, MsFlags::MS_BIND, none)
                .with_context(|| (*at).to_owned())?;
        }
        Ok(own)
    }
}

impl Drop for OwnDirectories {
    fn drop(&mut self) {
        for OwnDirectory { at, was_made } in self.0.drain(..) {
            // Not there when it could not be shown.
            let _ = umount2(at, MntFlags::MNT_DETACH);
            if was_made {
                let _ = fs::remove_dir(at);
            }
        }
    }
}
