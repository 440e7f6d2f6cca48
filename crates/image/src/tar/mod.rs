//! Reading tar archives (POSIX pax and ustar, GNU, V7) from a stream, with every size bounded.
//!
//! Why not a library: layers are hostile, are read once, and must be refused where readers of tar
//! disagree. What is here bounds all that is kept of a header, knows GNU's and pax's sparse files, and
//! hands file contents on without copying them.

mod header;
mod pax;
mod sparse;

use header::{BLOCK_LEN, Block};
use pax::Extensions;
pub(crate) use sparse::Sparse;
use std::io::{self, BufRead};

/// The longest extension header (a long name, or pax records with extended attributes).
const MAX_EXTENSION_LEN: u64 = 1 << 20;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("{0}")]
    Malformed(&'static str),
}

/// A time with its nanoseconds, which count upwards for times before 1970 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// The target of a hard or symbolic link.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Time,
    /// Bytes of data that follow in the archive.
    pub(crate) size_bytes: u64,
    /// Major and minor number of a device.
    pub(crate) device: (u64, u64),
    /// Names as the kernel knows them, and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes in a file with holes.
    pub(crate) sparse: Option<Sparse>,
}

/// An archive that is being read.
pub(crate) struct Archive<R> {
    reader: R,
    /// Data of the current entry that was not read.
    data_bytes: u64,
    /// What fills its last block up.
    padding_bytes: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            data_bytes: 0,
            padding_bytes: 0,
        }
    }

    /// The next entry; what was not read of the data before it is skipped. None at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(block) = self.read_header()? else {
                return if extensions.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::Malformed("it ends behind an extension header"))
                };
            };
            self.expect_data(block.size_bytes()?);
            match block.type_flag() {
                b'x' | b'X' => extensions.add_pax(&self.read_extension()?)?,
                b'L' => extensions.set_path(long_name(self.read_extension()?)),
                b'K' => extensions.set_link(long_name(self.read_extension()?)),
                // Comments of whoever made the archive, and the name of a GNU volume.
                b'g' | b'V' => self.check_extension_len()?,
                _ => return self.entry(&block, extensions).map(Some),
            }
        }
    }

    /// Reads `len` bytes of the current entry's data and hands them to `write` as they come.
    pub(crate) fn read_data<E: From<Error>>(
        &mut self,
        len: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if len > self.data_bytes {
            return Err(Error::Malformed("a file has less data than its header says").into());
        }
        let mut left = len;
        while left > 0 {
            let chunk = self.reader.fill_buf().map_err(Error::Read)?;
            if chunk.is_empty() {
                return Err(Error::Malformed("it ends in the middle of a file").into());
            }
            let taken = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            write(&chunk[..taken])?;
            self.reader.consume(taken);
            left -= taken as u64;
            self.data_bytes -= taken as u64;
        }
        Ok(())
    }

    /// What is left of the current entry's data.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Reads what is behind the end of the archive: nothing but zeros may be there.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        loop {
            let chunk = self.reader.fill_buf().map_err(Error::Read)?;
            if chunk.is_empty() {
                return Ok(());
            }
            if chunk.iter().any(|&byte| byte != 0) {
                return Err(Error::Malformed("there is data behind its end"));
            }
            let len = chunk.len();
            self.reader.consume(len);
        }
    }

    fn entry(&mut self, block: &Block, extensions: Extensions) -> Result<Entry, Error> {
        if let Some(size) = extensions.size_bytes() {
            self.expect_data(size);
        }
        let kind = kind(block)?;
        if kind != Kind::File {
            // Whatever the size field says, only files have data.
            self.expect_data(0);
        }
        let sparse = self.sparse(block, &extensions)?;
        let mut entry = Entry {
            path: block.path(),
            kind,
            link: block.link(),
            mode: u32::try_from(block.mode()? & 0o7777).expect("twelve bits fit"),
            uid: block.uid()?,
            gid: block.gid()?,
            mtime: Time {
                seconds: block.mtime_s()?,
                nanoseconds: 0,
            },
            size_bytes: self.data_bytes,
            device: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                block.device()?
            } else {
                (0, 0)
            },
            xattrs: Vec::new(),
            sparse,
        };
        extensions.apply(&mut entry);
        Ok(entry)
    }

    fn sparse(&mut self, block: &Block, extensions: &Extensions) -> Result<Option<Sparse>, Error> {
        let sparse = if block.type_flag() == b'S' {
            sparse::read_gnu(block, || self.read_continuation())?
        } else if let Some(map) = extensions.sparse_map() {
            Sparse::new(map, extensions.sparse_size())?
        } else if extensions.has_sparse_map_in_data() {
            sparse::read_map_in_data(self, extensions.sparse_size())?
        } else {
            return Ok(None);
        };
        if sparse.data_bytes() == self.data_bytes {
            Ok(Some(sparse))
        } else {
            Err(Error::Malformed(
                "the map of a sparse file does not fit its data",
            ))
        }
    }

    /// A further header block of GNU's sparse format, which the size does not count.
    fn read_continuation(&mut self) -> Result<[u8; BLOCK_LEN], Error> {
        let mut block = [0; BLOCK_LEN];
        self.reader.read_exact(&mut block).map_err(Error::Read)?;
        Ok(block)
    }

    fn expect_data(&mut self, size_bytes: u64) {
        self.data_bytes = size_bytes;
        let block = BLOCK_LEN as u64;
        self.padding_bytes = (block - size_bytes % block) % block;
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        self.read_data(self.data_bytes, |_| Ok::<(), Error>(()))?;
        self.data_bytes = std::mem::take(&mut self.padding_bytes);
        self.read_data(self.data_bytes, |_| Ok::<(), Error>(()))
    }

    /// None where the archive ends: at two blocks of zeros, or where nothing follows.
    fn read_header(&mut self) -> Result<Option<Block>, Error> {
        let Some(block) = self.read_block()? else {
            return Ok(None);
        };
        if block.iter().any(|&byte| byte != 0) {
            return Block::parse(block).map(Some);
        }
        match self.read_block()? {
            Some(block) if block.iter().any(|&byte| byte != 0) => {
                Err(Error::Malformed("a block of zeros is in its middle"))
            }
            _ => Ok(None),
        }
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK_LEN]>, Error> {
        let mut block = [0; BLOCK_LEN];
        let mut filled = 0;
        while filled < BLOCK_LEN {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::Malformed("it ends in the middle of a header")),
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        Ok(Some(block))
    }

    fn check_extension_len(&self) -> Result<(), Error> {
        if self.data_bytes > MAX_EXTENSION_LEN {
            return Err(Error::Malformed("an extension header is longer than 1 MiB"));
        }
        Ok(())
    }

    fn read_extension(&mut self) -> Result<Vec<u8>, Error> {
        self.check_extension_len()?;
        let mut content = Vec::new();
        self.read_data(self.data_bytes, |chunk| {
            content.extend_from_slice(chunk);
            Ok::<(), Error>(())
        })?;
        Ok(content)
    }
}

fn long_name(mut content: Vec<u8>) -> Vec<u8> {
    let end = content
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(content.len());
    content.truncate(end);
    content
}

fn kind(block: &Block) -> Result<Kind, Error> {
    Ok(match block.type_flag() {
        // Before POSIX a directory was a file whose name ends with a slash.
        0 if block.path().ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err(Error::Malformed("an entry is of an unknown type")),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use header::tests::raw_header;
    use nix::unistd::geteuid;

    /// One entry with its data, padded to whole blocks.
    pub(crate) fn entry(path: &str, type_flag: u8, link: &str, mode: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = raw_header(path, type_flag, link, mode, data.len() as u64).to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        bytes
    }

    pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        entry(
            "PaxHeaders/x",
            b'x',
            "",
            0o644,
            &pax::tests::records(records),
        )
    }

    pub(crate) fn end() -> Vec<u8> {
        vec![0; 2 * BLOCK_LEN]
    }

    fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
        let mut archive = Archive::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let mut data = Vec::new();
            archive.read_data(archive.data_bytes(), |chunk| {
                data.extend_from_slice(chunk);
                Ok::<(), Error>(())
            })?;
            found.push((entry, data));
        }
        archive.finish()?;
        Ok(found)
    }

    #[test]
    fn entries_and_their_data_are_read() {
        let bytes = [
            entry("dir/", b'5', "", 0o755, b""),
            entry("dir/file", b'0', "", 0o4755, b"hello"),
            entry("link", b'2', "dir/file", 0o777, b""),
            entry("hard", b'1', "dir/file", 0o644, b""),
            entry("old-dir/", 0, "", 0o755, b""),
            end(),
        ]
        .concat();
        let found = entries(&bytes).unwrap();
        let kinds: Vec<_> = found.iter().map(|(entry, _)| entry.kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Directory,
                Kind::File,
                Kind::Symlink,
                Kind::HardLink,
                Kind::Directory
            ]
        );
        assert_eq!(found[1].1, b"hello");
        assert_eq!((found[1].0.mode, found[1].0.size_bytes), (0o4755, 5));
        assert_eq!(found[2].0.link, b"dir/file");
    }

    #[test]
    fn long_names_come_from_gnu_and_pax_headers() {
        let long = "n".repeat(300);
        let bytes = [
            entry("././@LongLink", b'L', "", 0, format!("{long}\0").as_bytes()),
            entry("././@LongLink", b'K', "", 0, b"target\0"),
            entry("short", b'2', "t", 0o777, b""),
            pax(&[
                ("path", long.as_bytes()),
                ("uid", b"70000"),
                ("mtime", b"-1.25"),
                ("SCHILY.xattr.user.a", b"1\n2"),
            ]),
            entry("short", b'0', "", 0o644, b""),
            entry("plain", b'0', "", 0o644, b""),
            end(),
        ]
        .concat();
        let found = entries(&bytes).unwrap();
        assert_eq!(
            (found[0].0.path.len(), &found[0].0.link[..]),
            (300, &b"target"[..])
        );
        let pax = &found[1].0;
        assert_eq!((pax.path.len(), pax.uid), (300, 70000));
        assert_eq!(
            pax.mtime,
            Time {
                seconds: -2,
                nanoseconds: 750_000_000
            }
        );
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"1\n2".to_vec())]);
        assert_eq!(
            (&found[2].0.path[..], found[2].0.uid),
            (&b"plain"[..], geteuid().as_raw().into())
        );
    }

    #[test]
    fn pax_sizes_count_and_sizes_of_links_do_not() {
        let mut file = entry("f", b'0', "", 0o644, b"");
        file.extend(entry("", b'0', "", 0, b"")); // Taken as data.
        let mut bytes = pax(&[("size", b"512")]);
        bytes.extend(file);
        bytes.extend(raw_header("hard", b'1', "f", 0o644, 12345));
        bytes.extend(end());
        let found = entries(&bytes).unwrap();
        assert_eq!(
            (found[0].1.len(), found[1].1.len(), found.len()),
            (512, 0, 2)
        );
    }

    #[test]
    fn an_archive_may_end_without_zeros_but_not_inside_an_entry() {
        let whole = entry("f", b'0', "", 0o644, b"0123456789");
        assert_eq!(entries(&whole).unwrap().len(), 1);
        for len in [1, 511, 513, 520, 1000] {
            assert!(entries(&whole[..len]).is_err(), "{len}");
        }
        assert!(entries(&pax(&[("path", b"x")])).is_err());
    }

    #[test]
    fn what_readers_disagree_about_is_refused() {
        let file = entry("f", b'0', "", 0o644, b"");
        let garbage_behind = [file.clone(), end(), vec![1]].concat();
        let zeros_between = [file.clone(), vec![0; 512], file.clone(), end()].concat();
        let unknown_type = [entry("f", b'Z', "", 0, b""), end()].concat();
        let mut bad_sum = file;
        bad_sum[0] = b'g';
        for bytes in [garbage_behind, zeros_between, unknown_type, bad_sum] {
            assert!(entries(&bytes).is_err());
        }
    }

    #[test]
    fn what_is_kept_of_a_header_is_bounded() {
        for flag in [b'x', b'g', b'L', b'K'] {
            let bytes = raw_header("x", flag, "", 0, MAX_EXTENSION_LEN + 1).to_vec();
            assert!(
                matches!(entries(&bytes), Err(Error::Malformed(reason)) if reason.contains("1 MiB"))
            );
        }
    }
}
