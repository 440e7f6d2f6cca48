//! Upper directories that were found empty. What a container has written is asked for every few seconds, and
//! many containers write nothing.

use crate::tree::{self, Size};
use nix::sys::stat::{FileStat, lstat};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The coarsest time that a file system tells of a change: what changes now has another time than what has
/// changed longer ago than this.
const COARSEST: Duration = Duration::from_secs(2);

/// The same where times have fractions of a millisecond: file systems that tell nanoseconds take them from a clock
/// that the kernel sets forward at each tick, a hundred times a second at least.
const BY_TICKS: Duration = Duration::from_millis(100);

/// When an empty directory was changed last, in seconds and nanoseconds since the epoch. Who writes to a directory
/// can set every time of it but this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EmptySince(i64, i64);

/// Measures the tree at `path`, by a look at its root alone if that is as empty as it was `known` to be; and tells
/// what is known then.
pub(crate) fn measure(
    path: &Path,
    known: Option<EmptySince>,
) -> nix::Result<(Size, Option<EmptySince>)> {
    let stat = lstat(path)?;
    let changed = Some(EmptySince(stat.st_ctime, stat.st_ctime_nsec));
    if known == changed {
        return Ok((Size::of(&stat), known));
    }
    let size = tree::measure(path)?;
    let is_known = size.inodes == 1 && is_settled(&stat);
    Ok((size, changed.filter(|_| is_known)))
}

/// Whether a change after this look cannot be taken for the last one before.
fn is_settled(stat: &FileStat) -> bool {
    let resolution = match stat.st_ctime_nsec % 1_000_000 {
        0 => COARSEST,
        _ => BY_TICKS,
    };
    let seconds = u64::try_from(stat.st_ctime).ok();
    let changed = seconds.zip(u32::try_from(stat.st_ctime_nsec).ok());
    let settles = changed.and_then(|(seconds, nanoseconds)| {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds) + resolution)
    });
    settles.is_some_and(|settles| settles < SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::AT_FDCWD;
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    use std::fs;
    use std::thread::sleep;

    #[test]
    fn what_is_written_to_an_empty_directory_is_seen_whatever_its_times_are_set_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let (size, known) = measure(path, None).unwrap();
        assert_eq!((size.inodes, known), (1, None));
        sleep(COARSEST + Duration::from_secs(1));
        let (_, known) = measure(path, None).unwrap();
        assert!(known.is_some());
        assert_eq!(measure(path, known).unwrap(), (size, known));

        let stat = lstat(path).unwrap();
        fs::write(path.join("file"), "x").unwrap();
        let atime = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
        let mtime = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
        utimensat(
            AT_FDCWD,
            path,
            &atime,
            &mtime,
            UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        let (size, known) = measure(path, known).unwrap();
        assert_eq!((size.inodes, known), (2, None));
    }
}
