//! Header blocks: all those of a connection are one zlib stream.

use super::dictionary::DICTIONARY;
use crate::failure::Failure;
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};

/// The longest header block that is taken, in bytes, without compression.
pub(crate) const HEADER_BLOCK_MAX_BYTES: usize = 4 << 10;
/// How many headers a block may have.
pub(crate) const HEADERS_MAX: usize = 32;

/// What a stream was opened with; names are in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads the header blocks of a connection, in their order.
#[derive(Debug)]
pub(crate) struct HeaderReader(Decompress);

impl HeaderReader {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Reads one block. After an error the rest of the connection cannot be understood.
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Headers, Failure> {
        parse(self.inflate(block)?.into())
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Failure> {
        // One byte more than allowed, to see whether there is more.
        let mut text = vec![0; HEADER_BLOCK_MAX_BYTES + 1];
        let mut length = 0;
        while !block.is_empty() {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let result = self
                .0
                .decompress(block, &mut text[length..], FlushDecompress::Sync);
            let read = difference(self.0.total_in(), read);
            length += difference(self.0.total_out(), written);
            block = &block[read..];
            match result {
                Ok(Status::Ok) if length <= HEADER_BLOCK_MAX_BYTES => {}
                Ok(Status::Ok) => return Err(Failure::Violation("headers that are too long")),
                Ok(Status::BufError | Status::StreamEnd) => return Err(GARBLED),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| GARBLED)?;
                }
                Err(_) => return Err(GARBLED),
            }
        }
        text.truncate(length);
        Ok(text)
    }
}

const GARBLED: Failure = Failure::Violation("headers that cannot be decompressed");

fn difference(now: u64, before: u64) -> usize {
    usize::try_from(now - before).expect("no more than the buffers hold")
}

/// A block: the number of headers; for each the length of its name, the name, the length of its value,
/// the value. Numbers have 32 bits.
fn parse(mut block: Bytes) -> Result<Headers, Failure> {
    let count = block.try_get_u32().map_err(|_| MALFORMED)? as usize;
    if count > HEADERS_MAX {
        return Err(Failure::Violation("too many headers"));
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        if headers.get(&name).is_some() {
            return Err(Failure::Violation("a header that comes twice"));
        }
        headers.0.push((name, text(&mut block)?));
    }
    match block.is_empty() {
        true => Ok(headers),
        false => Err(MALFORMED),
    }
}

const MALFORMED: Failure = Failure::Violation("headers that are malformed");

fn text(block: &mut Bytes) -> Result<String, Failure> {
    let length = block.try_get_u32().map_err(|_| MALFORMED)? as usize;
    if length > block.len() {
        return Err(MALFORMED);
    }
    String::from_utf8(block.split_to(length).into()).map_err(|_| MALFORMED)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    /// Writes header blocks as clients do.
    pub(crate) struct HeaderWriter(Compress);

    impl HeaderWriter {
        pub(crate) fn new() -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            compress.set_dictionary(&DICTIONARY).unwrap();
            Self(compress)
        }

        pub(crate) fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            self.compress(&block(headers))
        }

        pub(crate) fn compress(&mut self, text: &[u8]) -> Vec<u8> {
            let mut block = Vec::with_capacity(text.len() + 1024);
            self.0
                .compress_vec(text, &mut block, FlushCompress::Sync)
                .unwrap();
            block
        }
    }

    fn number(value: usize) -> [u8; 4] {
        u32::try_from(value).unwrap().to_be_bytes()
    }

    fn block(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&number(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    #[test]
    fn blocks_are_read_in_their_order() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
        for round in 0..300 {
            let id = round.to_string();
            let block = writer.write(&[("streamtype", "data"), ("Port", "80"), ("requestid", &id)]);
            let headers = reader.read(&block).unwrap();
            assert_eq!(headers.get("streamtype"), Some("data"));
            assert_eq!(headers.get("port"), Some("80"));
            assert_eq!(headers.get("requestid"), Some(id.as_str()));
            assert_eq!(headers.get("other"), None);
        }
    }

    #[test]
    fn the_servers_replies_are_blocks_without_headers() {
        let mut reader = HeaderReader::new();
        for first in [true, false, false] {
            let frame = super::super::frame::reply(1, first);
            assert_eq!(reader.read(&frame[12..]).unwrap(), Headers::default());
        }
    }

    #[test]
    fn a_bomb_is_not_blown_up() {
        let mut writer = HeaderWriter::new();
        let bomb = writer.compress(&vec![0; 8 << 20]);
        assert!(bomb.len() < 16 << 10);
        let error = HeaderReader::new().read(&bomb).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }

    #[test]
    fn malformed_blocks_are_refused() {
        let twice = block(&[("a", "1"), ("A", "2")]);
        let many = block(&[("a", "1")].repeat(HEADERS_MAX + 1));
        let mut beyond = block(&[("a", "1")]);
        beyond[7] = 200;
        let cut = block(&[("a", "1")])[..10].to_vec();
        let binary = block(&[("a", "1")])
            .into_iter()
            .map(|b| if b == b'1' { 0xff } else { b });
        let more = [block(&[]), vec![0]].concat();
        for bad in [twice, many, beyond, cut, binary.collect(), more, Vec::new()] {
            let block = HeaderWriter::new().compress(&bad);
            HeaderReader::new().read(&block).unwrap_err();
        }
    }

    #[test]
    fn what_is_not_compressed_with_the_dictionary_is_refused() {
        HeaderReader::new().read(b"plainly not zlib").unwrap_err();
        let mut other = Compress::new(Compression::fast(), true);
        other.set_dictionary(b"another dictionary").unwrap();
        let block = HeaderWriter(other).write(&[("a", "1")]);
        HeaderReader::new().read(&block).unwrap_err();
        let mut cut = HeaderWriter::new().write(&[("a", "1")]);
        cut.truncate(cut.len() / 2);
        HeaderReader::new().read(&cut).unwrap_err();
    }
}
