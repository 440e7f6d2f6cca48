//! Files of the host: those that somebody else writes, and those that are replaced.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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
    read_open_bounded(file, max_bytes)
}

/// The same of a file that is open, from where it is read next.
///
/// # Errors
/// If it cannot be read, or is longer ([`io::ErrorKind::FileTooLarge`]).
pub fn read_open_bounded(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    // One more, to see its end at once.
    let size = file.metadata()?.len().min(max_bytes).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
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

/// The bytes of a file that one write(2) changes all at once for whoever is killed: those of one page, on every
/// architecture.
pub const WHOLE_BYTES: usize = 4096;

/// Writes a text over that of a file, where blanks at its end mean nothing: the old one, if it is longer, is
/// made up for by them. Whoever is killed meanwhile leaves the old text or the new one. The file does not get
/// room anew, and so is never without for lack of it. A power cut may leave a mixture.
///
/// Tells whether it is done. What is not is for [`replace`]: there is no such file, it would be more than one
/// page, or the kernel took a part only.
///
/// # Errors
/// Those of open(2) and pwrite(2), with the old text in place.
pub fn overwrite(path: &Path, text: &[u8]) -> io::Result<bool> {
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let old_bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let length = text.len().max(old_bytes);
    if length > WHOLE_BYTES {
        return Ok(false);
    }
    let mut page = [b' '; WHOLE_BYTES];
    page[..text.len()].copy_from_slice(text);
    Ok(file.write_at(&page[..length], 0)? == length)
}

/// Puts a file that has been written in the place of another, if there is one: whoever opens `path` has
/// the old one or the new one. A death in between leaves the old one, or it under the name of the new one.
///
/// A rename onto a file has ext4 allocate and write the new one at once, for the sake of programs that
/// expect it to outlive the host's power (ext4(5), `auto_da_alloc`). Files that change places it writes as
/// it does any other: one that is replaced or removed again soon never reaches the disk.
///
/// # Errors
/// Those of rename(2) and unlink(2).
pub fn replace(path: &Path, new: &Path) -> io::Result<()> {
    match exchange(path, new) {
        Ok(()) => fs::remove_file(new),
        // There is none yet; or the file system has no such thing.
        Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOSYS) => fs::rename(new, path),
        Err(errno) => Err(errno.into()),
    }
}

/// renameat2(2), which nix has for the GNU library alone.
fn exchange(one: &Path, other: &Path) -> nix::Result<()> {
    let [one, other] =
        [one, other].map(|path| CString::new(path.as_os_str().as_bytes()).or(Err(Errno::EINVAL)));
    let (one, other) = (one?, other?);
    // SAFETY: both paths are strings that live until it returns; it changes no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn a_file_takes_the_place_of_another_or_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let [path, new] = ["file", "file.new"].map(|name| dir.path().join(name));
        for content in ["first", "second"] {
            std::fs::write(&new, content).unwrap();
            replace(&path, &new).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert!(!new.exists());
        }
        let error = replace(&path, &new).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
    }

    #[test]
    fn a_text_is_written_over_another_in_its_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let long = "x".repeat(WHOLE_BYTES);
        assert!(!overwrite(&path, b"none").unwrap());
        std::fs::write(&path, "first").unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        for (text, expected) in [("2nd", "2nd  "), ("the third", "the third"), (&long, &long)] {
            assert!(overwrite(&path, text.as_bytes()).unwrap());
            assert_eq!(read(), expected);
        }
        assert!(!overwrite(&path, format!("{long}x").as_bytes()).unwrap());
        assert_eq!(read(), long);
        std::fs::write(&path, format!("{long}x")).unwrap();
        assert!(!overwrite(&path, b"short").unwrap());
    }

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
