//! How runtimes that others have configured find the images.

use crate::images::REGISTRY;
use anyhow::{Result, ensure};
use crisp_e2e::Registry;
use std::fs;
use std::path::{Path, PathBuf};

/// A `hosts.toml` in somebody else's directory, which is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Mirror {
    dir: PathBuf,
}

impl Mirror {
    /// Refuses to take the place of one that is there.
    pub(crate) fn put(certs_dir: &Path) -> Result<Self> {
        let dir = certs_dir.join(REGISTRY);
        ensure!(
            !dir.exists(),
            "{} says already where images of {REGISTRY} are: have the runtime look in another directory",
            dir.display()
        );
        let mirror = Self { dir };
        Registry::shared().serve_as(REGISTRY, certs_dir)?;
        Ok(mirror)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{} is left: {error}", self.dir.display());
        }
    }
}
