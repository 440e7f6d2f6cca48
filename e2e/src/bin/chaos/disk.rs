//! The small disk that the daemon keeps its images and records on.

use anyhow::Result;
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Room for the images, and for what a few dozen containers write.
const SIZE: &str = "size=160m";

#[derive(Debug)]
pub(crate) struct Disk {
    filler: PathBuf,
}

impl Disk {
    /// Mounts an empty one. The node's sweep unmounts it.
    pub(crate) fn mount(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        mount(
            Some("chaos"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(SIZE),
        )?;
        Ok(Self {
            filler: dir.join("filler"),
        })
    }

    /// Leaves no room on it.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut filler = File::create(&self.filler)?;
        for size in [1 << 20, 4096] {
            let zeros = vec![0; size];
            while filler.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    pub(crate) fn free(&self) -> Result<()> {
        Ok(fs::remove_file(&self.filler)?)
    }
}
