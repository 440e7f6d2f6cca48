//! The log file of one container.

use crate::journal::journal;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// After a failed try to open the file, output is dropped for this long before the next.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Where the lines of a container go. A log that cannot be written never holds up the container: what
/// does not fit is counted and dropped, and writing is tried again with the next output.
#[derive(Debug)]
pub(crate) enum Log {
    /// The container has no log.
    Discard,
    File(LogFile),
}

/// A log with a path; open as long as that works.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<OwnedFd>,
    /// The file ends within a line whose rest was dropped.
    torn: bool,
    dropped_bytes: u64,
    next_open: Instant,
}

impl Log {
    /// A log at an absolute path; an empty one means none. The file is opened at once, for appending.
    pub(crate) fn open(path: &str) -> nix::Result<Self> {
        if path.is_empty() {
            return Ok(Self::Discard);
        }
        let path = PathBuf::from(path);
        Ok(Self::File(LogFile {
            file: Some(open_file(&path)?),
            path,
            torn: false,
            dropped_bytes: 0,
            next_open: Instant::now(),
        }))
    }

    /// Writes whole lines.
    pub(crate) fn write(&mut self, lines: &[u8]) {
        if let Self::File(log) = self
            && !lines.is_empty()
        {
            log.write_or_drop(lines);
        }
    }

    /// Opens the path anew, after the file was renamed. The old file stays in use when that fails.
    pub(crate) fn reopen(&mut self) -> nix::Result<()> {
        let Self::File(log) = self else {
            return Ok(());
        };
        log.file = Some(open_file(&log.path)?);
        log.torn = false;
        Ok(())
    }
}

impl LogFile {
    fn write_or_drop(&mut self, lines: &[u8]) {
        let dropped = lines.len() - self.write_some(lines);
        if dropped > 0 {
            if self.dropped_bytes == 0 {
                journal!(
                    "log {}: not writable, output is dropped",
                    self.path.display()
                );
            }
            self.dropped_bytes += u64::try_from(dropped).expect("a length fits in 64 bits");
        } else if self.dropped_bytes > 0 {
            let dropped = std::mem::take(&mut self.dropped_bytes);
            journal!(
                "log {}: writable again, {dropped} bytes were dropped",
                self.path.display()
            );
        }
    }

    /// Returns how many bytes were written.
    fn write_some(&mut self, lines: &[u8]) -> usize {
        if self.file.is_none() {
            self.try_open();
        }
        let Some(file) = &self.file else {
            return 0;
        };
        if self.torn && write(file, b"\n") == Ok(1) {
            self.torn = false;
        }
        let mut written = 0;
        while !self.torn && written < lines.len() {
            match write(file, &lines[written..]) {
                Ok(count) => written += count,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.torn |= written > 0 && lines[written - 1] != b'\n';
        written
    }

    fn try_open(&mut self) {
        let now = Instant::now();
        if now < self.next_open {
            return;
        }
        match open_file(&self.path) {
            Ok(file) => self.file = Some(file),
            Err(_) => self.next_open = now + REOPEN_INTERVAL,
        }
    }
}

/// Opens or makes the file. Only a regular file will do: opening a FIFO would wait, and a link could
/// lead out of the log directory.
fn open_file(path: &std::path::Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_CLOEXEC
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY;
    let file = open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)?;
    let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFREG {
        Ok(file)
    } else {
        Err(Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn log_in(dir: &tempfile::TempDir) -> (PathBuf, Log) {
        let path = dir.path().join("0.log");
        let log = Log::open(path.to_str().unwrap()).unwrap();
        (path, log)
    }

    #[test]
    fn lines_are_appended_and_others_cannot_read_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0.log"), "before\n").unwrap();
        let (path, mut log) = log_in(&dir);
        log.write(b"one\n");
        log.write(b"two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\ntwo\n");
        let fresh = dir.path().join("1.log");
        Log::open(fresh.to_str().unwrap()).unwrap();
        assert_eq!(fs::metadata(fresh).unwrap().permissions().mode() & 0o027, 0);
    }

    #[test]
    fn after_a_rename_reopening_begins_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut log) = log_in(&dir);
        log.write(b"old\n");
        let rotated = dir.path().join("0.log.1");
        fs::rename(&path, &rotated).unwrap();
        log.write(b"still old\n");
        log.reopen().unwrap();
        log.write(b"new\n");
        assert_eq!(fs::read_to_string(rotated).unwrap(), "old\nstill old\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "new\n");
    }

    #[test]
    fn reopening_in_a_vanished_directory_fails_and_keeps_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut log) = log_in(&dir);
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(log.reopen(), Err(Errno::ENOENT));
        log.write(b"to the file that nobody sees\n");
    }

    #[test]
    fn a_full_file_system_drops_output_and_counts_it() {
        let file = open("/dev/full", OFlag::O_WRONLY, Mode::empty()).unwrap();
        let mut log = LogFile {
            path: PathBuf::from("/dev/full"),
            file: Some(file),
            torn: false,
            dropped_bytes: 0,
            next_open: Instant::now(),
        };
        log.write_or_drop(b"12345\n");
        assert_eq!(log.dropped_bytes, 6);
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = log_in(&dir);
        let Log::File(other) = other else {
            unreachable!("the path is not empty")
        };
        log.file = other.file;
        log.write_or_drop(b"again\n");
        assert_eq!(log.dropped_bytes, 0);
        assert_eq!(fs::read_to_string(path).unwrap(), "again\n");
    }

    #[test]
    fn what_follows_a_torn_line_begins_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (path, log) = log_in(&dir);
        let Log::File(mut log) = log else {
            unreachable!("the path is not empty")
        };
        log.write_some(b"torn");
        log.write_some(b"whole\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "torn\nwhole\n");
    }

    #[test]
    fn a_link_or_a_fifo_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp/elsewhere", &link).unwrap();
        assert!(Log::open(link.to_str().unwrap()).is_err());
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(Log::open(fifo.to_str().unwrap()).is_err());
    }
}
