//! One header block (POSIX.1 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").

use super::Error;

/// Headers and data come in blocks of this size.
pub(super) const BLOCK_LEN: usize = 512;

const PATH: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..263;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;

/// A header block whose checksum is right.
pub(super) struct Block([u8; BLOCK_LEN]);

impl Block {
    pub(super) fn parse(bytes: [u8; BLOCK_LEN]) -> Result<Self, Error> {
        let stored = octal(&bytes[CHECKSUM])?;
        let (unsigned, signed) = checksums(&bytes);
        if i64::try_from(stored).is_ok_and(|stored| stored == unsigned || stored == signed) {
            Ok(Self(bytes))
        } else {
            Err(Error::Malformed("the checksum of a header is wrong"))
        }
    }

    pub(super) fn bytes(&self) -> &[u8; BLOCK_LEN] {
        &self.0
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[TYPE_FLAG]
    }

    /// The path, with the prefix that only POSIX headers have in this place.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[PATH]);
        let prefix = if &self.0[MAGIC] == b"ustar\0" {
            text(&self.0[PREFIX])
        } else {
            b""
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[LINK]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u64, Error> {
        number(&self.0[MODE])
    }

    pub(super) fn uid(&self) -> Result<u64, Error> {
        number(&self.0[UID])
    }

    pub(super) fn gid(&self) -> Result<u64, Error> {
        number(&self.0[GID])
    }

    pub(super) fn size_bytes(&self) -> Result<u64, Error> {
        number(&self.0[SIZE])
    }

    pub(super) fn mtime_s(&self) -> Result<i64, Error> {
        signed_number(&self.0[MTIME])
    }

    pub(super) fn device(&self) -> Result<(u64, u64), Error> {
        Ok((number(&self.0[MAJOR])?, number(&self.0[MINOR])?))
    }
}

/// The sum of all bytes with the checksum's own as spaces; some old writers took bytes as signed.
fn checksums(bytes: &[u8; BLOCK_LEN]) -> (i64, i64) {
    let mut sums = (0, 0);
    for (at, &byte) in bytes.iter().enumerate() {
        let byte = if CHECKSUM.contains(&at) { b' ' } else { byte };
        sums.0 += i64::from(byte);
        sums.1 += i64::from(byte.cast_signed());
    }
    sums
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number that is not negative.
pub(super) fn number(field: &[u8]) -> Result<u64, Error> {
    u64::try_from(signed_number(field)?).map_err(|_| Error::Malformed("a number is negative"))
}

/// Octal digits, or GNU's base 256 when the first bit is set.
fn signed_number(field: &[u8]) -> Result<i64, Error> {
    let too_large = Error::Malformed("a number is too large");
    if field[0] & 0x80 == 0 {
        return i64::try_from(octal(field)?).map_err(|_| too_large);
    }
    // The first byte is 0x80 for a positive number, 0xff for one in two's complement.
    let negative = field[0] & 0x40 != 0;
    let first = if negative {
        i128::from(field[0].cast_signed())
    } else {
        i128::from(field[0] & 0x7f)
    };
    // At most 12 bytes: 96 bits.
    let value = field[1..]
        .iter()
        .fold(first, |value, &byte| (value << 8) | i128::from(byte));
    i64::try_from(value).map_err(|_| too_large)
}

fn octal(field: &[u8]) -> Result<u64, Error> {
    let bad = Error::Malformed("a number is not octal");
    let digits = text(field).trim_ascii();
    // At most 12 digits: 36 bits.
    digits
        .iter()
        .try_fold(0, |value, &digit| match digit {
            b'0'..=b'7' => Some(value << 3 | u64::from(digit - b'0')),
            _ => None,
        })
        .ok_or(bad)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A POSIX header with a right checksum.
    pub(in crate::tar) fn raw_header(
        path: &str,
        type_flag: u8,
        link: &str,
        mode: u32,
        size: u64,
    ) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        let mut put = |range: std::ops::Range<usize>, value: &[u8]| {
            block[range.start..range.start + value.len()].copy_from_slice(value);
        };
        put(PATH, path.as_bytes());
        put(MODE, format!("{mode:07o}").as_bytes());
        // Whoever runs the tests can unpack what is their own.
        put(
            UID,
            format!("{:07o}", nix::unistd::geteuid().as_raw()).as_bytes(),
        );
        put(
            GID,
            format!("{:07o}", nix::unistd::getegid().as_raw()).as_bytes(),
        );
        put(SIZE, format!("{size:011o}").as_bytes());
        put(MTIME, b"00000000001");
        put(TYPE_FLAG..TYPE_FLAG + 1, &[type_flag]);
        put(LINK, link.as_bytes());
        put(MAGIC, b"ustar\0");
        put(263..265, b"00");
        seal(&mut block);
        block
    }

    /// Writes the checksum.
    pub(in crate::tar) fn seal(block: &mut [u8; BLOCK_LEN]) {
        let sum = checksums(block).0;
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(&[0; 8]).unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02").unwrap(), 258);
        assert_eq!(signed_number(&[0xff; 12]).unwrap(), -1);
        assert!(number(&[0xff; 12]).is_err());
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(number(b"0000698\0").is_err());
    }

    #[test]
    fn a_prefix_counts_in_posix_headers_only() {
        let mut bytes = raw_header("name", b'0', "", 0, 0);
        bytes[PREFIX.start..PREFIX.start + 3].copy_from_slice(b"a/b");
        seal(&mut bytes);
        assert_eq!(Block::parse(bytes).unwrap().path(), b"a/b/name");
        bytes[MAGIC].copy_from_slice(b"ustar ");
        seal(&mut bytes);
        assert_eq!(Block::parse(bytes).unwrap().path(), b"name");
    }
}
