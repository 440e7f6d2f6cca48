//! A directory that is being listed, by a descriptor that is of use meanwhile.

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Takes some hundred names of usual length, and the longest that there is.
const BUFFER_BYTES: usize = 16 * 1024;

/// A directory, and what of its entries has not been told yet. It is listed once.
pub struct Listing {
    directory: OwnedFd,
    buffer: Box<[u8]>,
    /// What the kernel has given of the entries and is not told yet.
    left: Range<usize>,
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: CString,
    pub kind: Kind,
}

/// What an entry is, as far as the file system tells without a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Other,
    Unknown,
}

impl Listing {
    /// Of an open directory that nobody has read from.
    #[must_use]
    pub fn new(directory: OwnedFd) -> Self {
        Self {
            directory,
            buffer: vec![0; BUFFER_BYTES].into(),
            left: 0..0,
        }
    }

    /// The next entry but for `.` and `..`.
    ///
    /// # Errors
    /// Those of getdents64(2); `EBADMSG` for what cannot be an answer of it.
    pub fn next_entry(&mut self) -> nix::Result<Option<Entry>> {
        loop {
            if self.left.is_empty() {
                self.left = 0..self.read()?;
            }
            if self.left.is_empty() {
                return Ok(None);
            }
            let (entry, bytes) = parse(&self.buffer[self.left.clone()]).ok_or(Errno::EBADMSG)?;
            self.left.start += bytes;
            if !matches!(entry.name.to_bytes(), b"." | b"..") {
                return Ok(Some(entry));
            }
        }
    }

    fn read(&mut self) -> nix::Result<usize> {
        // SAFETY: the pointer and the length are those of a buffer that nobody else has meanwhile.
        let result = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.directory.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                self.buffer.len(),
            )
        };
        Ok(usize::try_from(Errno::result(result)?).expect("a successful result is a length"))
    }
}

impl AsFd for Listing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listing").field(&self.directory).finish()
    }
}

/// The first entry of these, and its length: getdents64(2), `struct linux_dirent64`.
fn parse(entries: &[u8]) -> Option<(Entry, usize)> {
    const LENGTH_AT: usize = 16;
    const KIND_AT: usize = 18;
    const NAME_AT: usize = 19;
    let length = entries.get(LENGTH_AT..KIND_AT)?.try_into().ok()?;
    let bytes = usize::from(u16::from_ne_bytes(length));
    let entry = entries.get(..bytes)?;
    let name = CStr::from_bytes_until_nul(entry.get(NAME_AT..)?).ok()?;
    let kind = match *entry.get(KIND_AT)? {
        libc::DT_DIR => Kind::Directory,
        libc::DT_UNKNOWN => Kind::Unknown,
        _ => Kind::Other,
    };
    let name = name.to_owned();
    Some((Entry { name, kind }, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs::{self, File};

    #[test]
    fn all_entries_are_told_once_with_their_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        // More than the buffer takes.
        for number in 0..200 {
            let name = format!("{number:0>200}");
            File::create(dir.path().join(&name)).unwrap();
            expected.insert(name, Kind::Other);
        }
        fs::create_dir(dir.path().join("below")).unwrap();
        expected.insert("below".to_owned(), Kind::Directory);
        let mut listing = Listing::new(File::open(dir.path()).unwrap().into());
        let mut told = BTreeMap::new();
        while let Some(Entry { name, kind }) = listing.next_entry().unwrap() {
            let kind = match kind {
                // Not every file system tells.
                Kind::Unknown => expected[name.to_str().unwrap()],
                kind => kind,
            };
            assert_eq!(told.insert(name.into_string().unwrap(), kind), None);
        }
        assert_eq!(told, expected);
        assert_eq!(listing.next_entry(), Ok(None));
    }

    #[test]
    fn a_file_is_no_directory() {
        let mut listing = Listing::new(tempfile::tempfile().unwrap().into());
        assert_eq!(listing.next_entry(), Err(Errno::ENOTDIR));
    }

    #[test]
    fn what_is_cut_off_is_not_understood() {
        let mut entry = vec![0; 24];
        entry[16..18].copy_from_slice(&24u16.to_ne_bytes());
        entry[18] = libc::DT_REG;
        entry[19..22].copy_from_slice(b"abc");
        let (told, bytes) = parse(&entry).unwrap();
        assert_eq!((told.name.as_c_str(), bytes), (c"abc", 24));
        for length in [0, 17, 23] {
            assert_eq!(parse(&entry[..length]), None, "{length} bytes");
        }
        entry[16..18].copy_from_slice(&0u16.to_ne_bytes());
        assert_eq!(parse(&entry), None);
    }
}
