//! Files of the host that somebody else writes.

use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a file of at most so many bytes. What is no regular file is refused before anything is
/// read, and opening it neither waits, as for a FIFO's other end, nor does anything else, as some devices
/// do (open(2), `O_NONBLOCK`).
///
/// # Errors
/// If it cannot be read, or is longer ([`io::ErrorKind::FileTooLarge`]).
pub fn read_bounded(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max_bytes {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {max_bytes} bytes"),
        )),
        false => Ok(bytes),
    }
}

/// The same of a text.
///
/// # Errors
/// As [`read_bounded`], or if it is no text.
pub fn read_text_bounded(path: &Path, max_bytes: u64) -> io::Result<String> {
    let bytes = read_bounded(path, max_bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn files_are_read_up_to_a_bound_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_text_bounded(&path, 5).unwrap(), "12345");
        assert!(read_bounded(&path, 4).is_err());
        assert!(read_bounded(dir.path(), 5).is_err());
        // Nobody opens its other end.
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(read_bounded(&fifo, 5).is_err());
        assert!(read_bounded(Path::new("/dev/zero"), 5).is_err());
    }
}
