//! Exit records: how a container ended, kept for a daemon that was not there when it did.
//!
//! `exits/<container id>` holds the length of the rest as four bytes, lowest first, and then an `Exit`
//! message. It is written under a temporary name and renamed; nothing is synced, because neither the
//! record nor the processes it tells of outlive the boot. A file that is torn all the same is no record.

use crate::is_valid_id;
use crate::message::Exit;
use crisp_crash::point;
use prost::Message;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The longest file that is read as a record: an `Exit` with two ids is some 300 bytes.
const MAX_RECORD_BYTES: u64 = 4096;

/// What precedes the names of files that are not finished; no id begins so.
const TEMPORARY_PREFIX: &str = ".";

/// An exit record could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The id cannot name a file; nothing was written.
    #[error("{container_id:?} is not the id of a container")]
    InvalidId {
        /// The id that was given.
        container_id: String,
    },
    /// The file system refused.
    #[error("{op} {path}")]
    Io {
        /// What was done.
        op: &'static str,
        /// To which file.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The records of one pod, by their directory.
#[derive(Debug)]
pub struct ExitRecord;

impl ExitRecord {
    /// Writes the record of a container, in place of an earlier one.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn write(exits_dir: &Path, exit: &Exit) -> Result<(), RecordError> {
        let id = checked(&exit.container_id)?;
        let temporary = exits_dir.join(format!("{TEMPORARY_PREFIX}{id}"));
        let path = exits_dir.join(id);
        fs::write(&temporary, to_bytes(exit)).map_err(failed("write", &temporary))?;
        point!("shim.exit-written");
        fs::rename(&temporary, &path).map_err(failed("rename to", &path))?;
        point!("shim.exit-renamed");
        Ok(())
    }

    /// The record of one container; none when there is none or it is torn.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn read(exits_dir: &Path, container_id: &str) -> Result<Option<Exit>, RecordError> {
        let path = exits_dir.join(checked(container_id)?);
        match read_bounded(&path) {
            Ok(bytes) => Ok(from_bytes(&bytes).filter(|exit| exit.container_id == container_id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Removes the record of one container, if there is one.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn remove(exits_dir: &Path, container_id: &str) -> Result<(), RecordError> {
        let path = exits_dir.join(checked(container_id)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All records of the pod, in no order; torn and unfinished ones are skipped. A directory that is
    /// not there has none.
    ///
    /// # Errors
    /// The directory, or a whole file in it, cannot be read.
    pub fn read_all(exits_dir: &Path) -> Result<Vec<Exit>, RecordError> {
        let entries = match fs::read_dir(exits_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", exits_dir)(error)),
        };
        let mut exits = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("list", exits_dir))?.file_name();
            if let Some(id) = name.to_str().filter(|name| is_valid_id(name)) {
                exits.extend(Self::read(exits_dir, id)?);
            }
        }
        Ok(exits)
    }
}

fn checked(container_id: &str) -> Result<&str, RecordError> {
    if is_valid_id(container_id) {
        return Ok(container_id);
    }
    Err(RecordError::InvalidId {
        container_id: container_id.chars().take(80).collect(),
    })
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io {
        op,
        path: path.display().to_string(),
        source,
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_RECORD_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn to_bytes(exit: &Exit) -> Vec<u8> {
    let message = exit.encode_to_vec();
    let length = u32::try_from(message.len()).expect("an exit is shorter than 4 GiB");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&message);
    bytes
}

/// None when the bytes are torn. An empty message would pass as an `Exit`, but names no container.
fn from_bytes(bytes: &[u8]) -> Option<Exit> {
    let (length, message) = bytes.split_first_chunk::<4>()?;
    if usize::try_from(u32::from_le_bytes(*length)).ok()? != message.len() {
        return None;
    }
    Exit::decode(message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(container_id: &str, code: i32) -> Exit {
        Exit {
            container_id: container_id.to_owned(),
            code,
            finished_at_ns: 1_700_000_000_000_000_001,
            pid: 42,
            ..Exit::default()
        }
    }

    #[test]
    fn a_record_is_read_as_written_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        ExitRecord::write(dir.path(), &exit("c1", 1)).unwrap();
        ExitRecord::write(dir.path(), &exit("c1", 137)).unwrap();
        assert_eq!(
            ExitRecord::read(dir.path(), "c1").unwrap(),
            Some(exit("c1", 137))
        );
        assert_eq!(ExitRecord::read(dir.path(), "c2").unwrap(), None);
    }

    #[test]
    fn a_removed_record_is_gone_and_may_be_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        ExitRecord::write(dir.path(), &exit("c1", 1)).unwrap();
        ExitRecord::remove(dir.path(), "c1").unwrap();
        ExitRecord::remove(dir.path(), "c1").unwrap();
        assert_eq!(ExitRecord::read_all(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_record_torn_anywhere_is_none_and_hides_no_other() {
        let whole = to_bytes(&exit("c1", 1));
        for length in 0..whole.len() {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("c1"), &whole[..length]).unwrap();
            fs::write(dir.path().join(".c3"), &whole).unwrap();
            ExitRecord::write(dir.path(), &exit("c2", 0)).unwrap();
            assert_eq!(
                ExitRecord::read(dir.path(), "c1").unwrap(),
                None,
                "{length}"
            );
            assert_eq!(ExitRecord::read_all(dir.path()).unwrap(), [exit("c2", 0)]);
        }
    }

    #[test]
    fn zeroes_in_place_of_a_record_are_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("c1"), [0; 4]).unwrap();
        fs::write(dir.path().join("c2"), [0; 64]).unwrap();
        assert!(ExitRecord::read_all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_records() {
        assert!(
            ExitRecord::read_all(Path::new("/nonexistent"))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn an_id_that_leaves_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = ExitRecord::write(dir.path(), &exit("../c1", 1));
        assert!(matches!(refused, Err(RecordError::InvalidId { .. })));
        assert!(ExitRecord::read(dir.path(), "a/b").is_err());
    }

    #[test]
    fn the_bytes_of_a_record_stay_as_they_are() {
        let bytes = to_bytes(&exit("c1", 3));
        let golden: &[u8] = &[
            0x12, 0, 0, 0, 0x0a, 2, b'c', b'1', 0x18, 3, 0x30, 0x81, 0x80, 0xa8, 0xb1, 0xe3, 0x9f,
            0xe7, 0xcb, 0x17, 0x40, 42,
        ];
        assert_eq!(bytes, golden, "{bytes:02x?}");
    }
}
