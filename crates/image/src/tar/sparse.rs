//! Files with holes: where their data goes (GNU tar manual, "Storing Sparse Files").

use super::header::{BLOCK_LEN, Block, number};
use super::{Archive, Error};
use std::io::BufRead;

/// The most pieces of data in one file that are accepted.
const MAX_SEGMENTS: usize = 65536;

/// A piece of data between holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The pieces of a file in their order, and its size with its holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) segments: Vec<Segment>,
    pub(crate) size_bytes: u64,
}

impl Sparse {
    /// Checks that pieces follow each other and are inside the file.
    pub(super) fn new(segments: Vec<Segment>, size_bytes: u64) -> Result<Self, Error> {
        let mut end = 0;
        for segment in &segments {
            let next_end = segment.offset.checked_add(segment.len);
            match next_end {
                Some(next_end) if segment.offset >= end && next_end <= size_bytes => end = next_end,
                _ => return Err(Error::Malformed("the map of a sparse file is not in order")),
            }
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(Error::Malformed("a sparse file has too many pieces"));
        }
        Ok(Self {
            segments,
            size_bytes,
        })
    }

    /// Bytes of data in the archive.
    pub(super) fn data_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }
}

/// GNU's own format: four pieces in the header, 21 in each block that continues it.
pub(super) fn read_gnu(
    block: &Block,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK_LEN], Error>,
) -> Result<Sparse, Error> {
    let bytes = block.bytes();
    let mut segments = Vec::new();
    add_gnu_segments(&mut segments, &bytes[386..482])?;
    let mut is_continued = bytes[482] != 0;
    while is_continued {
        let block = next_block()?;
        add_gnu_segments(&mut segments, &block[..504])?;
        is_continued = block[504] != 0;
        if segments.len() > MAX_SEGMENTS {
            return Err(Error::Malformed("a sparse file has too many pieces"));
        }
    }
    Sparse::new(segments, number(&bytes[483..495])?)
}

fn add_gnu_segments(segments: &mut Vec<Segment>, fields: &[u8]) -> Result<(), Error> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        segments.push(Segment {
            offset: number(&field[..12])?,
            len: number(&field[12..])?,
        });
    }
    Ok(())
}

/// Version 1.0 of the pax format: decimal lines before the data, filled up to whole blocks.
pub(super) fn read_map_in_data<R: BufRead>(
    archive: &mut Archive<R>,
    size_bytes: u64,
) -> Result<Sparse, Error> {
    let mut lines = Lines {
        archive,
        block: Vec::new(),
    };
    let count = usize::try_from(lines.next_number()?).unwrap_or(usize::MAX);
    if count > MAX_SEGMENTS {
        return Err(Error::Malformed("a sparse file has too many pieces"));
    }
    let mut segments = Vec::new();
    for _ in 0..count {
        segments.push(Segment {
            offset: lines.next_number()?,
            len: lines.next_number()?,
        });
    }
    Sparse::new(segments, size_bytes)
}

/// Reads lines out of whole blocks of an entry's data.
struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    /// What is left of the last block, in reverse.
    block: Vec<u8>,
}

impl<R: BufRead> Lines<'_, R> {
    fn next_number(&mut self) -> Result<u64, Error> {
        let mut line = Vec::new();
        loop {
            match self.next_byte()? {
                b'\n' => return super::pax::decimal(&line),
                byte if line.len() < 20 => line.push(byte),
                _ => return Err(Error::Malformed("a sparse map is malformed")),
            }
        }
    }

    fn next_byte(&mut self) -> Result<u8, Error> {
        if self.block.is_empty() {
            let mut block = Vec::with_capacity(BLOCK_LEN);
            self.archive.read_data(BLOCK_LEN as u64, |chunk| {
                block.extend_from_slice(chunk);
                Ok::<(), Error>(())
            })?;
            block.reverse();
            self.block = block;
        }
        self.block
            .pop()
            .ok_or(Error::Malformed("a sparse map is malformed"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::tests::{raw_header, seal};
    use super::super::tests::{end, entry, pax};
    use super::*;

    fn first(bytes: &[u8]) -> Result<(Vec<u8>, Sparse, u64), Error> {
        let mut archive = Archive::new(bytes);
        let entry = archive.next_entry()?.expect("an entry");
        Ok((
            entry.path,
            entry.sparse.expect("a sparse file"),
            archive.data_bytes(),
        ))
    }

    fn wanted() -> Sparse {
        let segments = vec![
            Segment {
                offset: 4096,
                len: 3,
            },
            Segment {
                offset: 8192,
                len: 2,
            },
        ];
        Sparse {
            segments,
            size_bytes: 10000,
        }
    }

    #[test]
    fn all_formats_of_sparse_files_are_read() {
        let version_0_0 = pax(&[
            ("GNU.sparse.size", b"10000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"8192"),
            ("GNU.sparse.numbytes", b"2"),
            ("GNU.sparse.name", b"real"),
        ]);
        let version_0_1 = pax(&[
            ("GNU.sparse.size", b"10000"),
            ("GNU.sparse.map", b"4096,3,8192,2"),
            ("GNU.sparse.name", b"real"),
        ]);
        for header in [version_0_0, version_0_1] {
            let bytes = [header, entry("fake", b'0', "", 0o644, b"abcde"), end()].concat();
            assert_eq!(first(&bytes).unwrap(), (b"real".to_vec(), wanted(), 5));
        }

        let version_1_0 = pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"10000"),
            ("GNU.sparse.name", b"real"),
        ]);
        let mut data = b"2\n4096\n3\n8192\n2\n".to_vec();
        data.resize(512, 0);
        data.extend(b"abcde");
        let bytes = [version_1_0, entry("fake", b'0', "", 0o644, &data), end()].concat();
        assert_eq!(first(&bytes).unwrap(), (b"real".to_vec(), wanted(), 5));
    }

    fn gnu_header(segments: &[(u64, u64)], size: u64, stored: u64, continued: bool) -> Vec<u8> {
        let mut block = raw_header("real", b'S', "", 0o644, stored);
        for (at, (offset, len)) in segments.iter().enumerate() {
            block[386 + 24 * at..][..24]
                .copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
        }
        block[482] = u8::from(continued);
        block[483..494].copy_from_slice(format!("{size:011o}").as_bytes());
        seal(&mut block);
        block.to_vec()
    }

    #[test]
    fn gnu_headers_and_their_continuations_are_read() {
        let mut bytes = gnu_header(&[(4096, 3)], 10000, 5, true);
        let mut more = [0; 512];
        more[..24].copy_from_slice(format!("{:011o}\0{:011o}\0", 8192, 2).as_bytes());
        bytes.extend(more);
        bytes.extend(b"abcde");
        bytes.resize(1536, 0);
        bytes.extend(end());
        assert_eq!(first(&bytes).unwrap(), (b"real".to_vec(), wanted(), 5));
    }

    #[test]
    fn maps_that_lie_are_refused() {
        for (segments, size, stored) in [
            (&[(0, 10), (5, 10)][..], 100, 20),
            (&[(90, 20)], 100, 20),
            (&[(0, 10)], 100, 11),
            (&[(u64::MAX >> 31, 10)], 100, 10),
        ] {
            assert!(
                first(&gnu_header(segments, size, stored, false)).is_err(),
                "{segments:?}"
            );
        }
        let bytes = [
            pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"10")]),
            entry("f", b'0', "", 0, &[b'9'; 600]),
        ];
        assert!(first(&bytes.concat()).is_err());
    }
}
