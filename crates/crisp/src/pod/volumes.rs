//! Directories of volumes on the host: made before a pod, and removed with it when they were its own.
//!
//! An emptyDir is `<run_dir>/volumes/<pod uid>/<volume>`.

use crate::client::Directories;
use crate::manifest::{Host, HostPathType, Pod, Volume};
use anyhow::{Context, Result, bail};
use std::fs::{self, FileType, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// As the kubelet makes emptyDirs: any user of the pod may write.
const EMPTY_DIR_MODE: u32 = 0o777;
/// With a group of the pod's own, files belong to it whoever makes them.
const GROUP_DIR_MODE: u32 = 0o2777;

/// Where the volumes of all pods are.
pub(super) fn directory(directories: &Directories) -> PathBuf {
    directories.run_dir.join("volumes")
}

/// Makes the pod's emptyDirs, and finds or makes what its hostPaths ask for.
pub(super) fn prepare(pod: &Pod, host: &Host) -> Result<()> {
    for volume in &pod.spec.volumes {
        let path = volume.host_path(pod, host);
        let prepared = match kind(volume) {
            None => empty_dir(&path, pod.spec.security_context.fs_group),
            Some(kind) => host_path(&path, kind),
        };
        prepared.with_context(|| format!("volume {}", volume.name))?;
    }
    Ok(())
}

/// None: an emptyDir.
fn kind(volume: &Volume) -> Option<HostPathType> {
    volume.host_path.as_ref().map(|path| path.r#type)
}

fn empty_dir(path: &Path, group: Option<u32>) -> Result<()> {
    let made = || format!("making {}", path.display());
    fs::create_dir_all(path).with_context(made)?;
    let mode = match group {
        Some(_) => GROUP_DIR_MODE,
        None => EMPTY_DIR_MODE,
    };
    chown(path, None, group).with_context(made)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(made)
}

fn host_path(path: &Path, kind: HostPathType) -> Result<()> {
    let wanted: (&str, fn(&FileType) -> bool) = match kind {
        HostPathType::Unset => return Ok(()),
        HostPathType::DirectoryOrCreate => {
            fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
            ("directory", FileType::is_dir)
        }
        HostPathType::FileOrCreate => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.with_context(|| format!("making {}", path.display()))?;
            ("file", FileType::is_file)
        }
        HostPathType::Directory => ("directory", FileType::is_dir),
        HostPathType::File => ("file", FileType::is_file),
        HostPathType::Socket => ("socket", FileType::is_socket),
        HostPathType::CharDevice => ("character device", FileType::is_char_device),
        HostPathType::BlockDevice => ("block device", FileType::is_block_device),
    };
    let (word, is_wanted) = wanted;
    match fs::metadata(path) {
        Ok(found) if is_wanted(&found.file_type()) => Ok(()),
        Ok(_) => bail!("{} is not a {word}", path.display()),
        Err(error) => Err(error).with_context(|| format!("{} must be a {word}", path.display())),
    }
}

/// Removes the emptyDirs of a pod, if it had any.
pub(super) fn remove(directories: &Directories, uid: &str) -> Result<()> {
    let all = directory(directories);
    // A uid that is no plain name was never given to a pod by `crisp pod run`.
    let plain = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !plain {
        return Ok(());
    }
    let path = all.join(uid);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    // The volumes of other pods keep it.
    let _ = fs::remove_dir(&all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_empty_dir_is_for_all_users_of_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volumes/u-1/tmp");
        empty_dir(&path, None).unwrap();
        assert_eq!(mode(&path), 0o777);
        let directories = Directories {
            run_dir: dir.path().to_owned(),
        };
        for uid in ["../x", "", "."] {
            remove(&directories, uid).unwrap();
            assert!(path.exists());
        }
        remove(&directories, "u-1").unwrap();
        remove(&directories, "u-1").unwrap();
        assert!(!dir.path().join("volumes").exists());
    }

    #[test]
    fn a_host_path_is_what_its_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        host_path(&path("made/a"), HostPathType::DirectoryOrCreate).unwrap();
        host_path(&path("made/file"), HostPathType::FileOrCreate).unwrap();
        host_path(&path("made"), HostPathType::Directory).unwrap();
        host_path(&path("nowhere"), HostPathType::Unset).unwrap();
        for (name, kind) in [
            ("made", HostPathType::File),
            ("made/file", HostPathType::Directory),
            ("made/file", HostPathType::Socket),
            ("nowhere", HostPathType::Directory),
        ] {
            assert!(host_path(&path(name), kind).is_err(), "{name} {kind:?}");
        }
    }
}
