//! Checksums of a layer's files, by which is seen later whether the disk still has what was unpacked.
//!
//! ```text
//! <layers_dir>/<n>/sums    for each regular file its inode number (64 bits), its size in bytes (63 bits),
//!                          whether its content has no checksum (the highest bit), and the CRC-32 of its
//!                          content (32 bits), little-endian
//! ```
//! They guard against disks and power cuts and not against who can write to the layer, so that a quick
//! checksum does: it is computed while the file is written. The content of sparse files has none. An
//! archive that has a path twice leaves a record of what was replaced; of two with the same inode the
//! later counts.

use crate::layers::Record;
use crate::tree::{self, Place, Tally, Visited, kind_of};
use crate::unpack;
use crisp_sys::file::read_bounded;
use flate2::Crc;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// The file of a layer's directory.
pub(crate) const FILE: &str = "sums";

const RECORD_BYTES: usize = 20;

/// In the size of a file whose content has no checksum. No file is as large (`off_t` has a sign).
const NO_CRC: u64 = 1 << 63;

/// All records of a layer; 80 MB.
const MAX_BYTES: u64 = unpack::MAX_ENTRIES * RECORD_BYTES as u64;

/// How much of a file is read at once.
const READ_BYTES: usize = 128 << 10;

/// What is wrong in a layer is told of so many files.
const TOLD_MAX: usize = 3;

/// What the checksums of a layer speak of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Coverage {
    /// Nothing: a crisp that made none has unpacked the layer.
    #[default]
    Nothing,
    /// All that is there, and nothing else.
    Whole,
    /// Things too that the archive itself has replaced.
    WithReplaced,
}

/// Takes checksums as files are unpacked.
pub(crate) struct Writer(Option<BufWriter<File>>);

impl Writer {
    /// Into a file that is not there yet.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Some(BufWriter::new(File::create_new(path)?))))
    }

    /// Nowhere.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// A file whose content has no checksum is known by its size alone.
    pub(crate) fn add(&mut self, inode: u64, size_bytes: u64, crc: Option<u32>) -> io::Result<()> {
        let Some(file) = &mut self.0 else {
            return Ok(());
        };
        let size = match crc {
            Some(_) => size_bytes,
            None => size_bytes | NO_CRC,
        };
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&inode.to_le_bytes());
        record[8..16].copy_from_slice(&size.to_le_bytes());
        record[16..].copy_from_slice(&crc.unwrap_or(0).to_le_bytes());
        file.write_all(&record)
    }

    /// Says whether there are any.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        match &mut self.0 {
            None => Ok(false),
            Some(file) => file.flush().map(|()| true),
        }
    }
}

/// What a file had when it was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    size_bytes: u64,
    crc: Option<u32>,
}

/// By inode number.
fn read(path: &Path) -> io::Result<HashMap<u64, Sum>> {
    let long = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes are cut"));
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes are cut"));
    let bytes = read_bounded(path, MAX_BYTES)?;
    let records = bytes.chunks_exact(RECORD_BYTES);
    if !records.remainder().is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let sum = |record: &[u8]| {
        let (size, crc) = (long(&record[8..16]), word(&record[16..]));
        Sum {
            size_bytes: size & !NO_CRC,
            crc: (size & NO_CRC == 0).then_some(crc),
        }
    };
    Ok(records.map(|r| (long(&r[..8]), sum(r))).collect())
}

/// Compares what is in a layer's directory with what was unpacked there, and gives what is wrong with it.
/// `told` hears of the bytes that were read, and breaks off; what is given then is worth nothing. Blocks.
pub(crate) fn verify(
    dir: &Path,
    record: &Record,
    mut told: impl FnMut(u64) -> ControlFlow<()>,
) -> Vec<String> {
    let mut sums = match record.sums {
        Coverage::Nothing => HashMap::new(),
        Coverage::Whole | Coverage::WithReplaced => match read(&dir.join(FILE)) {
            Ok(sums) => sums,
            Err(error) => return vec![format!("its checksums cannot be read: {error}")],
        },
    };
    let (mut wrong, mut tally) = (Vec::new(), Tally::default());
    let visited = tree::visit(&dir.join("fs"), |place| {
        tally.add(place.stat);
        let is_file = kind_of(place.stat) == SFlag::S_IFREG;
        let Some(sum) = sums.remove(&place.stat.st_ino).filter(|_| is_file) else {
            return ControlFlow::Continue(());
        };
        if let Some(reason) = compare(place, sum, &mut told)?
            && wrong.len() < TOLD_MAX
        {
            wrong.push(format!("{}: {reason}", place.path().display()));
        }
        ControlFlow::Continue(())
    });
    match visited {
        Err(errno) => wrong.push(format!("it cannot be read: {errno}")),
        Ok(Visited::Whole) if record.sums == Coverage::Whole => {
            wrong.extend(miscounted(record, &tally));
            wrong.extend(not_found(sums.len()));
        }
        Ok(Visited::Whole | Visited::Part) => {}
    }
    wrong
}

/// That there is more or less than was unpacked.
fn miscounted(record: &Record, tally: &Tally) -> Option<String> {
    // The layer's root is not one of them.
    let (made, there) = (record.inodes, tally.size().inodes.saturating_sub(1));
    (tally.is_exact() && there != made)
        .then(|| format!("{made} files and directories were unpacked, {there} are there"))
}

/// That files are gone, even if there are others by their names: nobody knows what those have.
fn not_found(files: usize) -> Option<String> {
    (files > 0).then(|| format!("{files} of the files that were unpacked are gone or replaced"))
}

/// What is wrong with a file, if something is.
fn compare(
    place: &Place<'_>,
    sum: Sum,
    told: &mut impl FnMut(u64) -> ControlFlow<()>,
) -> ControlFlow<(), Option<String>> {
    let (found_bytes, size_bytes) = (
        u64::try_from(place.stat.st_size).unwrap_or(0),
        sum.size_bytes,
    );
    if found_bytes != size_bytes {
        let reason = format!("has {found_bytes} bytes, not {size_bytes}");
        return ControlFlow::Continue(Some(reason));
    }
    let Some(crc) = sum.crc else {
        return ControlFlow::Continue(None);
    };
    ControlFlow::Continue(match checksum(place, told) {
        Ok(found) => (found? != crc).then(|| "its content is another".to_owned()),
        Err(error) => Some(format!("cannot be read: {error}")),
    })
}

/// Until it is broken off.
fn checksum(
    place: &Place<'_>,
    told: &mut impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<ControlFlow<(), u32>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(place.directory(), place.name, flags, Mode::empty())?;
    let (mut file, mut buffer) = (File::from(file), vec![0; READ_BYTES]);
    let mut crc = Crc::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(ControlFlow::Continue(crc.sum())),
            Ok(bytes) => {
                crc.update(&buffer[..bytes]);
                if told(bytes as u64).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_records_with_an_inode_the_later_counts_even_without_a_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut writer = Writer::create(&path).unwrap();
        for (inode, size_bytes, crc) in [(1, 5, Some(7)), (2, 6, None), (1, 8, None)] {
            writer.add(inode, size_bytes, crc).unwrap();
        }
        writer.finish().unwrap();
        let sum = |size_bytes| Sum {
            size_bytes,
            crc: None,
        };
        assert_eq!(
            read(&path).unwrap(),
            HashMap::from([(1, sum(8)), (2, sum(6))])
        );
    }
}
