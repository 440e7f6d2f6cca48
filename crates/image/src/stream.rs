//! From a layer's bytes, as they arrive, to its directory: one pass, nothing read twice.
//!
//! ```text
//! chunks ─▶ blob digest, size, (file) ─▶ decompression ═▶ diff id, bounds ─▶ tar ─▶ files
//!           └──────────── one thread ────────────┘        └────── another ──────┘
//! ```
//!
//! Both threads are busy about equally, so that even a single layer uses two processors. What lies
//! between them is bounded, so an image of any size is unpacked in the same memory.
//!
//! gzip is undone by zlib-rs (through flate2): as fast as the C libraries that need cmake or an
//! assembler, and memory-safe against hostile input. zstd is undone by its reference implementation,
//! which cc alone compiles. Which of them is needed is seen from the first bytes: media types are often
//! wrong.

use crate::digest::Hasher;
use crate::manifest::Descriptor;
use crate::unpack::{self, Unpacked};
use crate::{Digest, Error, sums};
use bytes::{Buf, Bytes};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Decompressed bytes travel in pieces of this size.
const PIECE_BYTES: usize = 128 << 10;
/// So many pieces lie between the threads.
const PIECES: usize = 4;
/// The most memory that a zstd stream may ask for, as a power of two: 32 MiB. The format's own
/// recommendation for decoders is 8 MiB (RFC 8878, § 3.1.1.1.2).
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd stream may begin with a frame to be skipped: any of 16 magics (RFC 8878, § 3.1.2).
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// What a layer has to turn out to be.
pub(crate) struct Expected<'a> {
    pub(crate) blob: &'a Descriptor,
    /// The digest of what comes out of decompression.
    pub(crate) diff_id: &'a Digest,
    /// Bounds the layer.
    pub(crate) max_bytes: u64,
    /// Bounds all layers of the image: what may still come.
    pub(crate) budget: &'a AtomicU64,
    /// Where the compressed layer is to be kept.
    pub(crate) keep: Option<PathBuf>,
    /// Where the layer is unpacked, for messages.
    pub(crate) dir: &'a Path,
}

/// Unpacks the layer into `root`, an empty directory, and keeps the checksums of its files. Blocks; `arrived` is told the bytes that came so
/// far.
pub(crate) fn unpack(
    chunks: impl Iterator<Item = io::Result<Bytes>> + Send,
    expected: &Expected<'_>,
    (root, sums): (OwnedFd, sums::Writer),
    arrived: impl Fn(u64) + Send,
) -> Result<Unpacked, Error> {
    let (full_sender, full) = sync_channel(PIECES);
    let (empty, empty_receiver) = sync_channel(PIECES);
    let mut blob = Blob::new(chunks, expected, arrived)?;
    let mut archive = Archive::new(full, empty, expected);
    thread::scope(|scope| {
        let inflating = thread::Builder::new()
            .name("image-inflate".to_owned())
            .spawn_scoped(scope, move || {
                inflate(&mut blob, &full_sender, &empty_receiver)
            })
            .map_err(|error| {
                Error::io("start a thread for", expected.blob.digest.as_str(), error)
            })?;
        let unpacked = archive.unpack(root, sums);
        // Without a receiver the other thread ends too.
        drop(archive);
        let inflated = inflating.join().unwrap_or_else(|_| {
            Err(Error::corrupt(
                what(expected.blob),
                "its decompression panicked",
            ))
        });
        match (inflated, unpacked) {
            (Err(error), Err(Stopped::Upstream) | Ok(_)) => Err(error),
            (_, Err(Stopped::Here(error))) => Err(error),
            (Ok(()), Err(Stopped::Upstream)) => Err(Error::corrupt(
                what(expected.blob),
                "its decompression ended early",
            )),
            (Ok(()), Ok(unpacked)) => Ok(unpacked),
        }
    })
}

fn what(blob: &Descriptor) -> String {
    format!("layer {}", blob.digest)
}

/// The compressed layer: checks its size and digest on the way.
struct Blob<'a, I, F> {
    chunks: I,
    chunk: Bytes,
    blob: &'a Descriptor,
    hasher: Hasher,
    arrived_bytes: u64,
    arrived: F,
    keep: Option<(File, PathBuf)>,
    /// Why reading failed, if not because of the decompression.
    failure: Option<Error>,
}

impl<'a, I: Iterator<Item = io::Result<Bytes>>, F: Fn(u64)> Blob<'a, I, F> {
    fn new(chunks: I, expected: &Expected<'a>, arrived: F) -> Result<Self, Error> {
        let open = |path: &PathBuf| {
            let file = File::create_new(path).map_err(|error| Error::io("create", path, error))?;
            Ok((file, path.clone()))
        };
        Ok(Self {
            chunks,
            chunk: Bytes::new(),
            blob: expected.blob,
            hasher: Hasher::like(&expected.blob.digest),
            arrived_bytes: 0,
            arrived,
            keep: expected.keep.as_ref().map(open).transpose()?,
            failure: None,
        })
    }

    /// Takes the next chunk, when all of the one before was read. Leaves an empty one at the end.
    fn refill(&mut self) -> Result<(), Error> {
        self.chunk = match self.chunks.next() {
            None => return Ok(()),
            Some(chunk) => chunk.map_err(|error| Error::io("read", what(self.blob), error))?,
        };
        self.arrived_bytes += self.chunk.len() as u64;
        if self.arrived_bytes > self.blob.size_bytes {
            return Err(self.corrupt("it is larger than the manifest says"));
        }
        self.hasher.update(&self.chunk);
        if let Some((file, path)) = &mut self.keep {
            file.write_all(&self.chunk)
                .map_err(|error| Error::io("write", path, error))?;
        }
        (self.arrived)(self.arrived_bytes);
        Ok(())
    }

    /// Checks the whole once everything was read.
    fn finish(&mut self) -> Result<(), Error> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.arrived_bytes < self.blob.size_bytes {
            return Err(self.corrupt("it is shorter than the manifest says"));
        }
        let hasher = std::mem::replace(&mut self.hasher, Hasher::sha256());
        if hasher.finish() != self.blob.digest {
            return Err(self.corrupt("its digest is another"));
        }
        Ok(())
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::corrupt(what(self.blob), reason)
    }
}

impl<I: Iterator<Item = io::Result<Bytes>>, F: Fn(u64)> Read for Blob<'_, I, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl<I: Iterator<Item = io::Result<Bytes>>, F: Fn(u64)> BufRead for Blob<'_, I, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            if let Err(failure) = self.refill() {
                self.failure = Some(failure);
                return Err(io::ErrorKind::Other.into());
            }
            if self.chunk.is_empty() {
                break;
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, len: usize) {
        self.chunk.advance(len);
    }
}

fn read_buffered(reader: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let available = reader.fill_buf()?;
    let len = available.len().min(buffer.len());
    buffer[..len].copy_from_slice(&available[..len]);
    reader.consume(len);
    Ok(len)
}

/// Decompresses the whole blob into pieces; none is left unread, so that its digest can be told.
fn inflate<I: Iterator<Item = io::Result<Bytes>>, F: Fn(u64)>(
    blob: &mut Blob<'_, I, F>,
    full: &SyncSender<Piece>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), Error> {
    let result = decoder(&mut *blob).and_then(|mut decoder| {
        loop {
            let mut piece = empty.try_recv().unwrap_or_default();
            piece.resize(PIECE_BYTES, 0);
            let len = fill(&mut decoder, &mut piece)?;
            piece.truncate(len);
            // Nobody listens any more: the other thread has its own reason.
            if len == 0 || full.send(Piece::Data(piece)).is_err() {
                return Ok(len == 0);
            }
        }
    });
    match result {
        Ok(false) => Ok(()),
        Ok(true) => {
            blob.finish()?;
            // Whether anybody listens does not matter.
            let _ = full.send(Piece::End);
            Ok(())
        }
        Err(error) => Err(match blob.failure.take() {
            Some(failure) => failure,
            None => blob.corrupt(&format!("it cannot be decompressed: {error}")),
        }),
    }
}

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What the first bytes show.
pub(crate) fn compression(start: &[u8]) -> Compression {
    if start.starts_with(&GZIP_MAGIC) {
        Compression::Gzip
    } else if start.starts_with(&ZSTD_MAGIC) || start.get(1..4) == Some(&ZSTD_SKIPPABLE) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// Undoes whatever compression the first bytes show.
pub(crate) fn decoder<'a>(mut compressed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression(compressed.fill_buf()?) {
        Compression::None => Box::new(compressed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What travels between the threads.
enum Piece {
    Data(Vec<u8>),
    /// The blob was complete and its digest right.
    End,
}

/// Why unpacking stopped.
enum Stopped {
    /// The other thread knows.
    Upstream,
    Here(Error),
}

/// The archive as it comes out of decompression: checks its bounds and its digest on the way.
struct Archive<'a> {
    full: Receiver<Piece>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    read: usize,
    expected: &'a Expected<'a>,
    hasher: Hasher,
    bytes: u64,
    is_complete: bool,
    /// Why reading failed, if not because of the archive's format.
    failure: Option<Stopped>,
}

impl<'a> Archive<'a> {
    fn new(full: Receiver<Piece>, empty: SyncSender<Vec<u8>>, expected: &'a Expected<'a>) -> Self {
        Self {
            full,
            empty,
            piece: Vec::new(),
            read: 0,
            expected,
            hasher: Hasher::like(expected.diff_id),
            bytes: 0,
            is_complete: false,
            failure: None,
        }
    }

    fn unpack(&mut self, root: OwnedFd, sums: sums::Writer) -> Result<Unpacked, Stopped> {
        match unpack::unpack(&mut *self, root, sums) {
            Ok(unpacked) => self.check_diff_id().map(|()| unpacked),
            Err(error) => Err(match self.failure.take() {
                Some(failure) => failure,
                None => Stopped::Here(translate(error, self.expected)),
            }),
        }
    }

    fn check_diff_id(&mut self) -> Result<(), Stopped> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::sha256());
        if hasher.finish() == *self.expected.diff_id {
            Ok(())
        } else {
            let reason = "its content is not what the image's configuration says";
            Err(Stopped::Here(Error::corrupt(
                what(self.expected.blob),
                reason,
            )))
        }
    }

    fn refill(&mut self) -> Result<(), Stopped> {
        let piece = match self.full.recv() {
            Ok(Piece::Data(piece)) => piece,
            Ok(Piece::End) => {
                self.is_complete = true;
                return Ok(());
            }
            Err(_) => return Err(Stopped::Upstream),
        };
        // If the other thread has enough of them, this one is freed.
        let _ = self
            .empty
            .try_send(std::mem::replace(&mut self.piece, piece));
        self.read = 0;
        let len = self.piece.len() as u64;
        self.bytes += len;
        let is_over = self.bytes > self.expected.max_bytes || !take(self.expected.budget, len);
        if is_over {
            let reason = "it unpacks to more than the configured bound";
            return Err(Stopped::Here(Error::refused(
                what(self.expected.blob),
                reason,
            )));
        }
        self.hasher.update(&self.piece);
        Ok(())
    }
}

fn take(budget: &AtomicU64, bytes: u64) -> bool {
    budget
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(bytes)
        })
        .is_ok()
}

impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl BufRead for Archive<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.piece.len()
            && !self.is_complete
            && let Err(failure) = self.refill()
        {
            self.failure = Some(failure);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(&self.piece[self.read..])
    }

    fn consume(&mut self, len: usize) {
        self.read += len;
    }
}

fn translate(error: unpack::Error, expected: &Expected<'_>) -> Error {
    let what = what(expected.blob);
    match error {
        unpack::Error::Archive(error) => Error::corrupt(what, error.to_string()),
        unpack::Error::Refused { path, reason } => {
            Error::refused(what, format!("{path:?}: {reason}"))
        }
        unpack::Error::Io { op, path, errno } => {
            Error::io(op, expected.dir.join(path.trim_start_matches('/')), errno)
        }
    }
}
