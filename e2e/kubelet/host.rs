//! What a kubelet changes on its host, or wants to find there.

use anyhow::{Context, Result};
use crisp_e2e::cgroups_are_v2;
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a kubelet sets when it starts (kubelet, cm/container_manager_linux.go).
const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Where it keeps the sockets of device plugins, whatever its own directory is.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// The host as it was before; put back when dropped.
#[derive(Debug)]
pub(crate) struct Host {
    sysctls: Vec<(PathBuf, String)>,
    had_kubelet: bool,
    cgroups: Vec<PathBuf>,
    root_dir: PathBuf,
}

impl Host {
    /// Prepares it for a kubelet that keeps its files in a directory and its cgroups below another.
    pub(crate) fn prepare(root_dir: PathBuf, cgroup: &str) -> Result<Self> {
        let read = |name| {
            let path = Path::new("/proc/sys").join(name);
            let value = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            anyhow::Ok((path, value))
        };
        let cgroups = in_hierarchies(cgroup)?;
        for dir in &cgroups {
            fs::create_dir_all(dir)?;
        }
        Ok(Self {
            sysctls: SYSCTLS.into_iter().map(read).collect::<Result<_>>()?,
            had_kubelet: Path::new(DEVICE_PLUGINS).exists(),
            cgroups,
            root_dir,
        })
    }

    /// Removes what a kubelet that has ended leaves of its own: the mount of its directory on itself,
    /// and the cgroups of the kinds of pods.
    pub(crate) fn remove_leftovers(&self) {
        // There is none where it did not come so far.
        let _ = umount2(&self.root_dir, MntFlags::MNT_DETACH);
        for dir in &self.cgroups {
            remove_tree(&dir.join("kubepods"));
        }
        if !self.had_kubelet {
            let _ = fs::remove_dir_all(DEVICE_PLUGINS);
            let _ = fs::remove_dir("/var/lib/kubelet");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.remove_leftovers();
        for (path, value) in &self.sysctls {
            if let Err(error) = fs::write(path, value) {
                eprintln!("{}: {error}", path.display());
            }
        }
    }
}

/// The directories of a cgroup, one for each hierarchy.
fn in_hierarchies(cgroup: &str) -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    let relative = cgroup.trim_start_matches('/');
    if cgroups_are_v2() {
        return Ok(vec![root.join(relative)]);
    }
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root)? {
        let hierarchy = entry?.path();
        if hierarchy.join("cgroup.procs").exists() {
            dirs.push(hierarchy.join(relative));
        }
    }
    Ok(dirs)
}

/// Removes cgroups without processes, the innermost first.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(dir)
        && error.kind() != ErrorKind::NotFound
    {
        eprintln!("{}: {error}", dir.display());
    }
}
