//! What the suite sees of its machine, which has namespaces of its own for networks and mounts.

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The node's own address.
pub(crate) const ADDRESS: &str = "10.10.0.1";
/// Fixed places of a kubelet, and of its suite.
const DIRECTORIES: [(&str, &str); 2] = [("kubelet", "/var/lib/kubelet"), ("log", "/var/log")];

/// Makes an interface with an address and a default route, by which programs find the address.
pub(crate) fn make_network() -> Result<()> {
    let lines = format!(
        "link set lo up
        link add eth0 type bridge
        address add {ADDRESS}/24 dev eth0
        link set eth0 up
        route add default via 10.10.0.254 dev eth0"
    );
    for line in lines.lines().map(str::trim) {
        let output = Command::new("ip").args(line.split(' ')).output()?;
        ensure!(output.status.success(), "ip {line}: {output:?}");
    }
    Ok(())
}

/// Whether the kernel has network interfaces that lead nowhere.
pub(crate) fn can_make_dummies() -> Result<bool> {
    let ip = |verb: &str, kind: &[&str]| {
        let mut ip = Command::new("ip");
        ip.args(["link", verb, "dummy"]).args(kind).output()
    };
    let made = ip("add", &["type", "dummy"])?.status.success();
    if made {
        ip("delete", &[])?;
    }
    Ok(made)
}

/// Empty directories in fixed places of the host, for this program and all that it starts. Gone when
/// dropped.
#[derive(Debug)]
pub(crate) struct OwnDirectories(());

impl OwnDirectories {
    /// Shows them; what comes to be in them is below a directory.
    pub(crate) fn show(dir: &Path) -> Result<Self> {
        let own = Self(());
        for (name, at) in DIRECTORIES {
            let dir = dir.join(name);
            fs::create_dir(&dir)?;
            mount(Some(&dir), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        Ok(own)
    }
}

impl Drop for OwnDirectories {
    fn drop(&mut self) {
        for (_, at) in DIRECTORIES {
            // Not there when it could not be shown.
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
    }
}

/// Hides the program by which the suite would have systemd start its kubelet: out of these namespaces, and
/// beyond this program's life.
pub(crate) fn hide_systemd() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).map(|dir| dir.join("systemd-run"));
    for program in programs.filter(|program| program.exists()) {
        let none = None::<&str>;
        mount(Some("/dev/null"), &program, none, MsFlags::MS_BIND, none)?;
    }
    Ok(())
}
