//! Overlays as detached mounts: by the newest way of giving the kernel their directories, and by the
//! one that older kernels have.

#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]

use crisp_sys::mount::{FsError, Overlay, Upper};
use crisp_sys::path::{Symlinks, open_in_root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Mount = fn(&Overlay<'_>) -> Result<OwnedFd, FsError>;

const WAYS: [Mount; 2] = [|overlay| overlay.mount(), |overlay| overlay.mount_joined()];

/// Lower directories that each hold a file of their number, and `name` with their number in it.
fn layers(count: usize) -> (TempDir, Vec<PathBuf>) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the privileged tests need root: run 'sudo hack/test.sh'"
    );
    let dir = tempfile::tempdir().unwrap();
    let lower: Vec<PathBuf> = (0..count).map(|n| dir.path().join(n.to_string())).collect();
    for (number, layer) in lower.iter().enumerate() {
        fs::create_dir(layer).unwrap();
        fs::write(layer.join("name"), number.to_string()).unwrap();
        fs::write(layer.join(format!("file-{number}")), "").unwrap();
    }
    (dir, lower)
}

fn overlay(lower_dirs: &[PathBuf]) -> Overlay<'_> {
    Overlay {
        lower_dirs,
        upper: None,
        context: None,
        id_map: None,
    }
}

fn open(root: &OwnedFd, path: &str, flags: OFlag) -> nix::Result<File> {
    open_in_root(root, Path::new(path), flags, Symlinks::Refuse).map(File::from)
}

fn read(root: &OwnedFd, path: &str) -> String {
    let mut text = String::new();
    let mut file = open(root, path, OFlag::O_RDONLY).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn privileged_overlay_without_upper_shows_the_topmost_and_is_read_only() {
    for (way, count) in WAYS
        .iter()
        .flat_map(|way| [1, 2, 127].map(|count| (way, count)))
    {
        let (_dir, lower) = layers(count);
        let root = way(&overlay(&lower)).unwrap();
        assert_eq!(read(&root, "name"), "0");
        assert_eq!(read(&root, &format!("file-{}", count - 1)), "");
        let error = open(&root, "name", OFlag::O_WRONLY).unwrap_err();
        assert_eq!(error, Errno::EROFS, "{count} layers");
    }
}

#[test]
fn privileged_overlay_with_upper_takes_writes() {
    for way in WAYS {
        let (dir, lower) = layers(2);
        let (upper_dir, work_dir) = (dir.path().join("upper"), dir.path().join("work"));
        fs::create_dir(&upper_dir).unwrap();
        fs::create_dir(&work_dir).unwrap();
        let root = way(&Overlay {
            upper: Some(Upper {
                upper_dir: &upper_dir,
                work_dir: &work_dir,
                volatile: true,
            }),
            ..overlay(&lower)
        })
        .unwrap();
        let mut file = open(&root, "name", OFlag::O_WRONLY | OFlag::O_TRUNC).unwrap();
        file.write_all(b"changed").unwrap();
        assert_eq!(fs::read(upper_dir.join("name")).unwrap(), b"changed");
        assert_eq!(fs::read(lower[0].join("name")).unwrap(), b"0");
    }
}

#[test]
fn privileged_overlay_of_long_paths_mounts() {
    let (dir, mut lower) = layers(1);
    let mut long = dir.path().to_owned();
    for _ in 0..5 {
        long.push("x".repeat(100));
    }
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), "below").unwrap();
    lower.push(long);
    for way in WAYS {
        assert_eq!(read(&way(&overlay(&lower)).unwrap(), "deep"), "below");
    }
}

#[test]
fn privileged_overlay_that_cannot_be_names_what_is_wrong() {
    let (dir, mut lower) = layers(1);
    lower.push(dir.path().join("missing"));
    let error = overlay(&lower).mount().unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
    assert!(error.to_string().contains("missing"), "{error}");
    let (_dir, many) = layers(129);
    assert_eq!(
        overlay(&many).mount_joined().unwrap_err().errno,
        Errno::E2BIG
    );
}
