//! File systems and mounts: overlayfs as crisp mounts it, the mount API, mapped ids, disk space.
//!
//! What is tried is mounted detached: nobody sees it, and it is gone with its descriptor.

use super::Finding;
use crate::text::bytes;
use crisp_engine::Config;
use crisp_sys::mount::{
    Attributes, Change, FsContext, Overlay, Recursion, Upper, change, clone_mount,
};
use crisp_sys::process::{SingleThreaded, Spawn, spawn};
use crisp_sys::quota::enforces_projects;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::statvfs::statvfs;
use nix::sys::wait::waitpid;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Less than this does not hold a few images.
const FREE_BYTES_MIN: u64 = 2 << 30;
/// Less than this does not hold a few images' files.
const FREE_INODES_MIN: u64 = 100_000;

/// The ids that a pod's user namespace could have.
const ID_MAP: &str = "0 100000 65536";

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let dir = existing(&config.root_dir);
    let mut findings = vec![mount_api()];
    // Where images would be, as the file system matters.
    match tempfile::Builder::new()
        .prefix(".crisp-check-")
        .tempdir_in(&dir)
    {
        Ok(scratch) => {
            findings.push(overlay(&scratch));
            findings.push(appended_layers(&scratch));
            findings.push(mapped_ids(scratch.path()));
            if config.limits_disk() {
                findings.push(disk_limits(scratch.path()));
            }
        }
        Err(error) => findings.push(Finding::missing(
            "overlayfs",
            format!(
                "cannot be tried: nothing can be written to {}: {error}",
                dir.display()
            ),
            "images cannot be kept",
            "run as root, or choose another root_dir",
        )),
    }
    findings.extend(space(&dir));
    findings
}

/// A directory, or what it would be made in.
fn existing(dir: &Path) -> PathBuf {
    let there = dir.ancestors().find(|ancestor| ancestor.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn mount_api() -> Finding {
    let subject = "mount API";
    let tried = FsContext::open("tmpfs").and_then(|context| context.mount(Attributes::NONE));
    match tried {
        Ok(_) => Finding::fine(subject, "fsopen, fsmount, open_tree"),
        Err(error) => Finding::missing(
            subject,
            error.to_string(),
            "containers' mounts cannot be made",
            "run as root on Linux 5.12 or later, outside of a container that confines it",
        ),
    }
}

fn overlay(scratch: &TempDir) -> Finding {
    let subject = "overlayfs";
    match try_overlay(scratch.path()) {
        Ok(()) => Finding::fine(
            subject,
            format!(
                "works on {}",
                scratch.path().parent().unwrap_or(scratch.path()).display()
            ),
        ),
        Err(error) => Finding::missing(
            subject,
            error,
            "no container gets a root file system",
            "modprobe overlay; if it is there, put root_dir on ext4 or xfs",
        ),
    }
}

fn try_overlay(scratch: &Path) -> Result<(), String> {
    let dir = |name: &str| scratch.join(name);
    for name in ["upper", "work", "lower1", "lower2"] {
        fs::create_dir_all(dir(name)).map_err(|error| error.to_string())?;
    }
    let overlay = Overlay {
        lower_dirs: &[dir("lower1"), dir("lower2")],
        upper: Some(Upper {
            upper_dir: &dir("upper"),
            work_dir: &dir("work"),
            volatile: true,
        }),
        context: None,
        id_map: None,
    };
    overlay.mount().map(drop).map_err(|error| error.to_string())
}

fn appended_layers(scratch: &TempDir) -> Finding {
    let subject = "overlayfs layers";
    let context = FsContext::open("overlay");
    let tried = context.and_then(|context| context.set_string("lowerdir+", scratch.path()));
    match tried {
        Ok(()) => Finding::fine(subject, "as many as an image has"),
        Err(_) => Finding::note(
            subject,
            "no lowerdir+",
            "images of more than 60 layers cannot be mounted",
            "update to Linux 6.7 or later",
        ),
    }
}

fn mapped_ids(dir: &Path) -> Finding {
    let subject = "id-mapped mounts";
    match try_mapped_ids(dir) {
        Ok(()) => Finding::fine(
            subject,
            format!("work on {}", dir.parent().unwrap_or(dir).display()),
        ),
        Err(error) => Finding::note(
            subject,
            error.to_string(),
            "pods with hostUsers: false are refused",
            "put root_dir on a file system that has them (ext4, xfs, btrfs), on Linux 5.19 or later",
        ),
    }
}

/// Maps a detached clone of the directory by the user namespace of a child, which waits meanwhile.
fn try_mapped_ids(dir: &Path) -> io::Result<()> {
    let witness = SingleThreaded::verify()?;
    let (mut wait, hold) = io::pipe()?;
    let options = Spawn {
        namespaces: Some(CloneFlags::CLONE_NEWUSER),
        ..Spawn::default()
    };
    let child = spawn(&options, &witness, |child| {
        let kept = child.close_all_but(&[wait.as_fd()]);
        // Ends with the other side of the pipe.
        u8::from(kept.is_err() || wait.read(&mut [0]).is_err())
    })?;
    let mapped = map(dir, &PathBuf::from(format!("/proc/{}", child.pid)));
    drop(hold);
    waitpid(child.pid, None)?;
    mapped
}

fn map(dir: &Path, process: &Path) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        fs::write(process.join(file), ID_MAP)?;
    }
    let namespace = File::open(process.join("ns/user"))?;
    let mount = clone_mount(dir, Recursion::This)?;
    let mapped = Change {
        id_map: Some(namespace.as_fd()),
        ..Change::default()
    };
    Ok(change(&mount, &mapped, Recursion::This)?)
}

fn disk_limits(dir: &Path) -> Finding {
    let subject = "project quotas";
    let on = dir.parent().unwrap_or(dir).display();
    let tried = File::open(dir).and_then(|dir| Ok(enforces_projects(&dir)?));
    match tried {
        Ok(true) => Finding::fine(subject, format!("in force on {on}")),
        Ok(false) | Err(_) => Finding::missing(
            subject,
            format!("none in force on {on}"),
            "containers are refused, as container_disk_limit_bytes is set",
            "put root_dir on an ext4 (mkfs.ext4 -O quota,project) or xfs and mount it with prjquota, or set it to 0",
        ),
    }
}

fn space(dir: &Path) -> Vec<Finding> {
    match statvfs(dir) {
        Ok(told) => {
            let free_bytes = told.blocks_available() * told.fragment_size();
            judge_space(
                dir,
                free_bytes,
                (told.files() > 0).then(|| told.files_available()),
            )
        }
        Err(error) => vec![Finding::note(
            "disk space",
            format!("{}: {}", dir.display(), Errno::desc(error)),
            "nobody knows whether images fit",
            "look at the file system",
        )],
    }
}

/// File systems without a fixed number of inodes tell none.
fn judge_space(dir: &Path, free_bytes: u64, free_inodes: Option<u64>) -> Vec<Finding> {
    let subject = "disk space";
    let fact = format!("{} free in {}", bytes(free_bytes), dir.display());
    let remedy = "free some, or choose another root_dir";
    let mut findings = vec![match free_bytes >= FREE_BYTES_MIN {
        true => Finding::fine(subject, fact),
        false => Finding::note(subject, fact, "pulls of larger images fail", remedy),
    }];
    if let Some(inodes) = free_inodes.filter(|inodes| *inodes < FREE_INODES_MIN) {
        let fact = format!("{inodes} inodes free in {}", dir.display());
        findings.push(Finding::note(
            subject,
            fact,
            "pulls of images with many files fail",
            remedy,
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_does_not_exist_would_be_made_in_what_does() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
        assert_eq!(existing(dir.path()), dir.path());
    }

    #[test]
    fn little_space_is_noted() {
        let judge = |bytes, inodes| judge_space(Path::new("/x"), bytes, inodes);
        assert_eq!(judge(FREE_BYTES_MIN, Some(FREE_INODES_MIN)).len(), 1);
        assert_eq!(judge(FREE_BYTES_MIN, None)[0].verdict, Verdict::Fine);
        assert_ne!(judge(1 << 20, None)[0].verdict, Verdict::Fine);
        assert_eq!(
            judge(FREE_BYTES_MIN, Some(5))[1].fact,
            "5 inodes free in /x"
        );
    }
}
