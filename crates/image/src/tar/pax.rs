//! Extension headers: pax records (POSIX.1 pax, "pax Extended Header") and what GNU tar and star put
//! into them.

use super::sparse::Segment;
use super::{Entry, Error, Time};

/// The prefix of extended attributes as star and all who followed write them.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// All that headers before an entry say about it.
#[derive(Default)]
pub(super) struct Extensions {
    any: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// GNU's sparse files in pax format, versions 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").
#[derive(Default)]
struct PaxSparse {
    /// The real name; `path` is made up for readers that do not know the format.
    name: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    map: Option<Vec<Segment>>,
    /// Version 0.0 gives offsets and lengths in turn.
    offset: Option<u64>,
    major: Option<u64>,
}

impl Extensions {
    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    pub(super) fn set_path(&mut self, path: Vec<u8>) {
        self.any = true;
        self.path = Some(path);
    }

    pub(super) fn set_link(&mut self, link: Vec<u8>) {
        self.any = true;
        self.link = Some(link);
    }

    pub(super) fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    pub(super) fn sparse_map(&self) -> Option<Vec<Segment>> {
        self.sparse.map.clone()
    }

    pub(super) fn sparse_size(&self) -> u64 {
        self.sparse.size_bytes.unwrap_or(0)
    }

    pub(super) fn has_sparse_map_in_data(&self) -> bool {
        self.sparse.major == Some(1)
    }

    /// Takes the records of one header: `LENGTH KEY=VALUE\n`, the length counting all of it.
    pub(super) fn add_pax(&mut self, mut records: &[u8]) -> Result<(), Error> {
        self.any = true;
        let malformed = || Error::Malformed("a pax record is malformed");
        while !records.is_empty() {
            let space = records
                .iter()
                .take(20)
                .position(|&b| b == b' ')
                .ok_or_else(malformed)?;
            let len = usize::try_from(decimal(&records[..space])?).map_err(|_| malformed())?;
            if len <= space + 1 || len > records.len() || records[len - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &records[space + 1..len - 1];
            let equals = record
                .iter()
                .position(|&b| b == b'=')
                .ok_or_else(malformed)?;
            self.add_record(&record[..equals], &record[equals + 1..])?;
            records = &records[len..];
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size_bytes = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => match (
                key.strip_prefix(XATTR_PREFIX),
                key.strip_prefix(b"GNU.sparse."),
            ) {
                (Some(name), _) => self.set_xattr(name, value),
                (_, Some(key)) => self.sparse.add(key, value)?,
                _ => {}
            },
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
    }

    pub(super) fn apply(self, entry: &mut Entry) {
        if let Some(path) = self.sparse.name.or(self.path) {
            entry.path = path;
        }
        if let Some(link) = self.link {
            entry.link = link;
        }
        entry.uid = self.uid.unwrap_or(entry.uid);
        entry.gid = self.gid.unwrap_or(entry.gid);
        entry.mtime = self.mtime.unwrap_or(entry.mtime);
        entry.xattrs = self.xattrs;
    }
}

impl PaxSparse {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size_bytes = Some(decimal(value)?),
            b"major" => self.major = Some(decimal(value)?),
            b"numblocks" => self.map = Some(Vec::new()),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let len = decimal(value)?;
                let offset = self
                    .offset
                    .take()
                    .ok_or(Error::Malformed("a sparse map is malformed"))?;
                self.map
                    .get_or_insert_default()
                    .push(Segment { offset, len });
            }
            b"map" => self.map = Some(map(value)?),
            _ => {}
        }
        Ok(())
    }
}

/// `OFFSET,LENGTH,OFFSET,LENGTH…`.
fn map(value: &[u8]) -> Result<Vec<Segment>, Error> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = value
        .split(|&b| b == b',')
        .map(decimal)
        .collect::<Result<Vec<_>, _>>()?;
    if numbers.len() % 2 != 0 {
        return Err(Error::Malformed("a sparse map is malformed"));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Segment {
            offset: pair[0],
            len: pair[1],
        })
        .collect())
}

/// Digits alone, below 2^63: it is the size or the owner of something.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Error> {
    let bad = || Error::Malformed("a number in an extension header is malformed");
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let number: i64 = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(bad)?;
    u64::try_from(number).map_err(|_| bad())
}

/// Seconds since 1970 with an optional fraction, possibly negative.
fn time(text: &[u8]) -> Result<Time, Error> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&b| b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default())?.cast_signed();
    let nanoseconds = nanoseconds(parts.next().unwrap_or_default())?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn nanoseconds(fraction: &[u8]) -> Result<u32, Error> {
    let mut padded = *b"000000000";
    for (digit, &given) in padded.iter_mut().zip(fraction) {
        *digit = given;
    }
    u32::try_from(decimal(&padded)?).map_err(|_| Error::Malformed("a time is malformed"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Encodes records; the length counts its own digits.
    pub(in crate::tar) fn records(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let len = (1..)
                .map(|digits| body + digits)
                .find(|len| len.to_string().len() + body == *len);
            bytes.extend(format!("{} {key}=", len.unwrap()).as_bytes());
            bytes.extend(*value);
            bytes.push(b'\n');
        }
        bytes
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"99 path=x\n",
            b"0 \n",
            b"4 x\n\n",
            b"x path=a\n",
            b"12 path=abcdeX",
            b"18446744073709551616 a=b\n",
            b"10 size=-1\n",
        ] {
            assert!(
                Extensions::default().add_pax(bad).is_err(),
                "{:?}",
                bad.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn the_last_record_of_a_key_counts() {
        let mut extensions = Extensions::default();
        extensions
            .add_pax(&records(&[("size", b"1"), ("size", b"2")]))
            .unwrap();
        extensions
            .add_pax(&records(&[("SCHILY.xattr.user.a", b"1")]))
            .unwrap();
        extensions
            .add_pax(&records(&[
                ("SCHILY.xattr.user.a", b"2"),
                ("comment", b"x"),
            ]))
            .unwrap();
        assert_eq!(extensions.size_bytes(), Some(2));
        assert_eq!(extensions.xattrs, [(b"user.a".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(
            time(b"12.5").unwrap(),
            Time {
                seconds: 12,
                nanoseconds: 500_000_000
            }
        );
        assert_eq!(
            time(b"-3").unwrap(),
            Time {
                seconds: -3,
                nanoseconds: 0
            }
        );
        assert_eq!(
            time(b"-0.1").unwrap(),
            Time {
                seconds: -1,
                nanoseconds: 900_000_000
            }
        );
        assert_eq!(time(b"1.1234567899").unwrap().nanoseconds, 123_456_789);
        for bad in [&b""[..], b".5", b"1.x", b"--1", b"9223372036854775808"] {
            assert!(time(bad).is_err());
        }
    }
}
