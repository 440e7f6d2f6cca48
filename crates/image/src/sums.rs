//! Checksums of a layer's files, by which is seen later whether the disk still has what was unpacked.
//!
//! ```text
//! <layers_dir>/<n>/sums    for each regular file its inode number (64 bits), its size in bytes (64 bits)
//!                          and the CRC-32 of its content (32 bits), little-endian
//! ```
//! They guard against disks and power cuts and not against who can write to the layer, so that a quick
//! checksum does: it is computed while the file is written. Sparse files have none. An archive that has
//! a path twice leaves a record of what was replaced; of two with the same inode the later counts.

use crate::layers::Record;
use crate::tree::{self, Place, Tally, kind_of};
use flate2::Crc;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// The file of a layer's directory.
pub(crate) const FILE: &str = "sums";

const RECORD_BYTES: usize = 20;

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

    pub(crate) fn add(&mut self, inode: u64, size_bytes: u64, crc: u32) -> io::Result<()> {
        let Some(file) = &mut self.0 else {
            return Ok(());
        };
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&inode.to_le_bytes());
        record[8..16].copy_from_slice(&size_bytes.to_le_bytes());
        record[16..].copy_from_slice(&crc.to_le_bytes());
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

/// By inode number: size and checksum.
fn read(path: &Path) -> io::Result<HashMap<u64, (u64, u32)>> {
    let long = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes are cut"));
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes are cut"));
    let bytes = fs::read(path)?;
    let records = bytes.chunks_exact(RECORD_BYTES);
    if !records.remainder().is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(records
        .map(|r| (long(&r[..8]), (long(&r[8..16]), word(&r[16..]))))
        .collect())
}

/// Compares what is in a layer's directory with what was unpacked there, and gives what is wrong with it.
/// `told` hears of the bytes that were read. Blocks.
pub(crate) fn verify(dir: &Path, record: &Record, mut told: impl FnMut(u64)) -> Vec<String> {
    let mut sums = match record.sums {
        Coverage::Nothing => HashMap::new(),
        Coverage::Whole | Coverage::WithReplaced => match read(&dir.join(FILE)) {
            Ok(sums) => sums,
            Err(error) => return vec![format!("its checksums cannot be read: {error}")],
        },
    };
    let (mut wrong, mut tally) = (Vec::new(), Tally::default());
    let walked = tree::visit(&dir.join("fs"), |place| {
        tally.add(place.stat);
        let is_file = kind_of(place.stat) == SFlag::S_IFREG;
        let sum = sums.remove(&place.stat.st_ino).filter(|_| is_file);
        if let Some(reason) = sum.and_then(|sum| compare(place, sum, &mut told))
            && wrong.len() < TOLD_MAX
        {
            wrong.push(format!("{}: {reason}", place.path().display()));
        }
    });
    // The layer's root is not one of them.
    let there = tally.size().inodes.saturating_sub(1);
    match walked {
        Err(errno) => wrong.push(format!("it cannot be read: {errno}")),
        Ok(()) if record.sums == Coverage::Whole && there != record.inodes => {
            let made = record.inodes;
            wrong.push(format!(
                "{made} files and directories were unpacked, {there} are there"
            ));
        }
        Ok(()) => {}
    }
    wrong
}

/// What is wrong with a file, if something is.
fn compare(
    place: &Place<'_>,
    (size_bytes, crc): (u64, u32),
    told: &mut impl FnMut(u64),
) -> Option<String> {
    let found_bytes = u64::try_from(place.stat.st_size).unwrap_or(0);
    if found_bytes != size_bytes {
        return Some(format!("has {found_bytes} bytes, not {size_bytes}"));
    }
    match checksum(place) {
        Ok(found) => {
            told(size_bytes);
            (found != crc).then(|| "its content is another".to_owned())
        }
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

fn checksum(place: &Place<'_>) -> io::Result<u32> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(place.directory(), place.name, flags, Mode::empty())?;
    let (mut file, mut buffer) = (File::from(file), vec![0; READ_BYTES]);
    let mut crc = Crc::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(crc.sum()),
            Ok(bytes) => crc.update(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
