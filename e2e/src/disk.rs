//! A disk without room.

use anyhow::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

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
        fs::remove_file(&self.0).expect("it was made");
    }
}
