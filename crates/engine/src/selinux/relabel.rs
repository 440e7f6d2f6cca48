//! Labelling files of the host, so that the containers that mount them may use them.
//!
//! A volume's content is its containers', which may change it at any moment. So everything below its
//! root is opened from its directory's descriptor, as what it is: a symbolic link is labelled itself and
//! never followed. What belongs to the host is not relabelled for anybody.

use super::ATTRIBUTE;
use crate::error::{Error, Result};
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long labelling a volume may take: the kubelet waits two minutes for a container.
const TIME_MAX: Duration = Duration::from_secs(100);

/// Directories in each other; each holds two descriptors open.
const DEPTH_MAX: usize = 256;

/// Never relabelled, with all that is in them: programs of the host, and file systems of the kernel.
const NEVER_BELOW: [&str; 10] = [
    "/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr",
];

/// Never relabelled as a whole: what is in them may be.
const NEVER_ITSELF: [&str; 16] = [
    "/",
    "/etc",
    "/etc/kubernetes",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/log",
    "/var/tmp",
];

/// Labels a mount's source and all that is in it. `own_dirs` are the daemon's, whose files it provides
/// to other containers too. Blocks.
///
/// # Errors
/// If the source is the host's, or cannot be labelled in time.
pub(crate) fn relabel(source: &Path, label: &str, own_dirs: &[PathBuf]) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(source, flags, Mode::empty())
        .map_err(|errno| Error::io("open", source)(errno.into()))?;
    let place = std::fs::read_link(link(root.as_fd())).map_err(Error::io("look at", source))?;
    if is_the_hosts(&place, own_dirs) {
        let reason = format!(
            "{} is the host's own and is not relabelled",
            place.display()
        );
        return Err(Error::invalid("mounts.selinux_relabel", reason));
    }
    walk(root, Instant::now() + TIME_MAX, &mut |file| {
        set(file, label)
    })
    .map_err(Error::io("relabel", source))
}

/// Labels a file, or a directory with all that is in it, that the daemon has made itself.
pub(crate) fn label_own(path: &Path, label: &str) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|root| {
            walk(root, Instant::now() + TIME_MAX, &mut |file| {
                set(file, label)
            })
        })
        .map_err(Error::io("label", path))
}

fn is_the_hosts(place: &Path, own_dirs: &[PathBuf]) -> bool {
    let below = |dir: &str| place.starts_with(dir);
    // A directory that holds one of the daemon's would bring it along.
    let own = |dir: &PathBuf| place.starts_with(dir) || dir.starts_with(place);
    NEVER_ITSELF.iter().any(|dir| place == Path::new(dir))
        || NEVER_BELOW.iter().any(|dir| below(dir))
        || own_dirs.iter().any(own)
}

/// File systems without labels are as they are.
fn set(file: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    match xattr::set_by_path_fd(file, ATTRIBUTE, label.as_bytes()) {
        Ok(()) | Err(Errno::ENOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Shows `visit` the root and everything below it, in descriptors opened with `O_PATH`.
fn walk(
    root: OwnedFd,
    deadline: Instant,
    visit: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut open_directories = Vec::new();
    enter(root, &mut open_directories, visit)?;
    while let Some((directory, entries)) = open_directories.last_mut() {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let Some(entry) = entries.next() else {
            open_directories.pop();
            continue;
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(
            directory,
            entry?.file_name().as_os_str(),
            flags,
            Mode::empty(),
        ) {
            // Somebody has removed it meanwhile.
            Err(Errno::ENOENT) => {}
            opened => enter(opened?, &mut open_directories, visit)?,
        }
    }
    Ok(())
}

type OpenDirectories = Vec<(OwnedFd, std::fs::ReadDir)>;

fn enter(
    file: OwnedFd,
    open_directories: &mut OpenDirectories,
    visit: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    visit(file.as_fd())?;
    let mode = SFlag::from_bits_truncate(fstat(&file)?.st_mode);
    if mode & SFlag::S_IFMT != SFlag::S_IFDIR {
        return Ok(());
    }
    if open_directories.len() >= DEPTH_MAX {
        return Err(io::Error::other(format!(
            "more than {DEPTH_MAX} directories in each other"
        )));
    }
    let entries = std::fs::read_dir(link(file.as_fd()))?;
    open_directories.push((file, entries));
    Ok(())
}

/// The descriptor as a path, which leads to what it is open for and nowhere else (proc_pid_fd(5)).
fn link(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn visited(root: &Path) -> io::Result<Vec<PathBuf>> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let opened = open(root, flags, Mode::empty())?;
        let mut all = Vec::new();
        walk(opened, Instant::now() + TIME_MAX, &mut |file| {
            all.push(fs::read_link(link(file))?);
            Ok(())
        })?;
        all.sort();
        Ok(all)
    }

    #[test]
    fn everything_in_a_volume_is_visited_and_nothing_that_its_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (volume, outside) = (dir.join("volume"), dir.join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        fs::write(outside.join("secret"), "").unwrap();
        symlink(&outside, volume.join("a/link")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        let expected = ["", "a", "a/b", "a/file", "a/link", "etc", "up"];
        let mut expected = expected.map(|path| volume.join(path)).to_vec();
        expected[0] = volume.clone();
        assert_eq!(visited(&volume).unwrap(), expected);
    }

    #[test]
    fn a_volume_of_too_many_levels_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        for _ in 0..DEPTH_MAX {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        assert!(visited(dir.path()).is_err());
        fs::remove_dir(&path).unwrap();
        assert_eq!(visited(dir.path()).unwrap().len(), DEPTH_MAX);
    }

    #[test]
    fn what_is_the_hosts_is_never_relabelled() {
        let own = [PathBuf::from("/var/lib/crisp"), PathBuf::from("/run/crisp")];
        for place in [
            "/",
            "/etc",
            "/usr/share/x",
            "/proc/1",
            "/dev/shm",
            "/run",
            "/run/crisp/pods/x/hosts",
            "/var/lib/crisp/layers",
            "/var/lib",
        ] {
            assert!(is_the_hosts(Path::new(place), &own), "{place}");
        }
        for place in [
            "/etc/app",
            "/data",
            "/var/lib/kubelet/pods/x/volumes",
            "/run/crisper",
            "/usrlocal",
        ] {
            assert!(!is_the_hosts(Path::new(place), &own), "{place}");
        }
    }
}
