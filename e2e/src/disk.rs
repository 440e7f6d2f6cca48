//! Disks: one without room, one with quotas, and one in memory.

use crate::tools::run;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that takes room on a disk as long as this lives.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Filler {
    /// Takes all the room there is where a directory is.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn fill(dir: &Path) -> Result<Self> {
        let filler = Self(dir.join("filler"));
        let mut file = File::create(&filler.0)?;
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(filler)
    }

    /// Takes so many bytes.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn hold(dir: &Path, bytes: usize) -> Result<Self> {
        let filler = Self(dir.join("filler"));
        fs::write(&filler.0, vec![1; bytes])?;
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

/// Mounts a new tmpfs of so many MiB.
pub(crate) fn mount_small(at: &Path, size_mib: u32) -> Result<()> {
    fs::create_dir_all(at)?;
    let (none, size) = (MsFlags::empty(), format!("size={size_mib}m"));
    mount(Some("e2e"), at, Some("tmpfs"), none, Some(size.as_str()))
        .with_context(|| format!("mounting a tmpfs at {}", at.display()))
}

/// Room in memory for what belongs to some thousand running pods.
const RUN_MIB: u32 = 1024;

/// Mounts a file system for what belongs to running pods: one in memory, as /run is on every node.
pub(crate) fn mount_run(at: &Path) -> Result<()> {
    mount_small(at, RUN_MIB)
}

/// Mounts a new ext4 of so many MiB; its image is beside it, and takes the room that is in use.
///
/// # Errors
/// There is no room for it, or no loop device.
pub fn mount_disk(at: &Path, size_mib: u32) -> Result<()> {
    mount_ext4(at, size_mib, &[], "loop")
}

/// The same with quotas of projects in force.
pub(crate) fn mount_with_quotas(at: &Path, size_mib: u32) -> Result<()> {
    let features = ["-O", "quota,project", "-E", "quotatype=prjquota"];
    mount_ext4(at, size_mib, &features, "loop,prjquota")
}

fn mount_ext4(at: &Path, size_mib: u32, features: &[&str], options: &str) -> Result<()> {
    let image = at.with_extension("ext4");
    fs::create_dir_all(at)?;
    File::create(&image)?.set_len(u64::from(size_mib) << 20)?;
    run(Command::new("mkfs.ext4")
        .arg("-q")
        .args(features)
        .arg(&image))?;
    run(Command::new("mount")
        .args(["-o", options])
        .args([image.as_path(), at]))
}
