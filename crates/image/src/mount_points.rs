//! What lies below the layers of every image: where runtimes mount something in any container.
//!
//! An image that lacks one of these would get it in the layer of each of its containers, and with it, by
//! overlayfs, a copy of the directory around it: a twentieth of the time that the start of a container takes.
//! What an image has there, or hides, comes first.

use crate::Error;
use crate::content::make_private_dir;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// As runtimes make them: root's, and for everybody to read.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Makes them in a directory that becomes the lowest of overlay mounts, as far as they are missing.
pub(crate) fn make(dir: &Path) -> Result<(), Error> {
    make_private_dir(dir)?;
    fill(dir).map_err(|error| Error::io("make mount points in", dir, error))
}

fn fill(dir: &Path) -> std::io::Result<()> {
    set_mode(dir, DIRECTORY_MODE)?;
    for path in DIRECTORIES.map(|name| dir.join(name)) {
        fs::create_dir_all(&path)?;
        set_mode(&path, DIRECTORY_MODE)?;
    }
    for path in FILES.map(|name| dir.join(name)) {
        File::create(&path)?;
        set_mode(&path, FILE_MODE)?;
    }
    Ok(())
}

/// Whatever the umask is.
fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_empty_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let points = dir.path().join("points");
        make(&points).unwrap();
        fs::write(points.join("etc/hosts"), "127.0.0.1 somebody").unwrap();
        make(&points).unwrap();
        for name in FILES {
            let metadata = fs::metadata(points.join(name)).unwrap();
            assert!(metadata.is_file() && metadata.len() == 0, "{name}");
            assert_eq!(metadata.permissions().mode() & 0o7777, FILE_MODE);
        }
        for name in DIRECTORIES {
            assert!(points.join(name).is_dir(), "{name}");
        }
    }
}
