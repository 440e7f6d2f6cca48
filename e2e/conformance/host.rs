//! What the suite sees of its machine, which has namespaces of its own for networks and mounts.

use anyhow::Result;
use nix::mount::{MsFlags, mount};
use std::process::Command;

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
