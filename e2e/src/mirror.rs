//! How a runtime that somebody else has configured finds the images of tests.

use crate::registry::Registry;
use anyhow::{Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Files `hosts.toml` in somebody else's directory, which are gone when this is dropped.
#[derive(Debug)]
pub struct Mirror {
    dirs: Vec<PathBuf>,
}

impl Mirror {
    /// Has the shared registry found in the place of others.
    ///
    /// # Errors
    /// There is something for one of them already, whose place is not taken; the directory cannot be
    /// written.
    pub fn put(certs_dir: &Path, registries: &[&str]) -> Result<Self> {
        let mut mirror = Self { dirs: Vec::new() };
        for name in registries {
            let dir = certs_dir.join(name);
            ensure!(
                !dir.exists(),
                "{} says already where images of {name} are: have the runtime look in another directory",
                dir.display()
            );
            mirror.dirs.push(dir);
            Registry::shared().serve_as(name, certs_dir)?;
        }
        Ok(mirror)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for dir in &self.dirs {
            if let Err(error) = fs::remove_dir_all(dir) {
                eprintln!("{} is left: {error}", dir.display());
            }
        }
    }
}
