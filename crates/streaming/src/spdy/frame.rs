//! Frames: what their bytes mean. No I/O, and no more memory than what has been read.
//!
//! ```text
//! control: |1| version 15 | type 16 | flags 8 | length 24 | payload |
//! data:    |0|      stream 31       | flags 8 | length 24 | payload |
//! ```

use super::dictionary;
use crate::failure::Failure;
use bytes::{Buf, Bytes, BytesMut};

/// The number of a stream: odd, for clients open them, and below 2³¹.
pub(crate) type StreamId = u32;

/// The longest control frame that is taken, in bytes. Those of Kubernetes' clients have some dozen.
pub(crate) const CONTROL_FRAME_MAX_BYTES: usize = 4 << 10;

const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A part of a data frame, as much of it as has come.
    Data {
        stream: StreamId,
        bytes: Bytes,
        end: bool,
    },
    SynStream {
        stream: StreamId,
        /// The client will send nothing on it.
        end: bool,
        block: Bytes,
    },
    Headers {
        stream: StreamId,
        end: bool,
        block: Bytes,
    },
    Reset {
        stream: StreamId,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The data frame that is in progress.
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    stream: StreamId,
    remaining: usize,
    end: bool,
}

impl Decoder {
    /// Takes the next event from the buffer; none when more has to be read first.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(body) = self.body.take() {
                return Ok(self.data(body, buffer));
            }
            let Some(head) = buffer.first_chunk::<HEAD_BYTES>() else {
                return Ok(None);
            };
            let [a, b, c, d, flags, length @ ..] = *head;
            let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
            let kind = u16::from_be_bytes([c, d]);
            let version = u16::from_be_bytes([a, b]);
            if version & CONTROL == 0 {
                buffer.advance(HEAD_BYTES);
                self.body = Some(Body {
                    stream: u32::from_be_bytes([a, b, c, d]),
                    remaining: length,
                    end: flags & FLAG_FIN != 0,
                });
                continue;
            }
            check_control(version & !CONTROL, length)?;
            if buffer.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            buffer.advance(HEAD_BYTES);
            let payload = buffer.split_to(length).freeze();
            if let Some(event) = control(kind, flags, payload)? {
                return Ok(Some(event));
            }
        }
    }

    fn data(&mut self, mut body: Body, buffer: &mut BytesMut) -> Option<Event> {
        if buffer.is_empty() && body.remaining > 0 {
            self.body = Some(body);
            return None;
        }
        let bytes = buffer.split_to(body.remaining.min(buffer.len())).freeze();
        body.remaining -= bytes.len();
        let (stream, end) = (body.stream, body.end && body.remaining == 0);
        if body.remaining > 0 {
            self.body = Some(body);
        }
        Some(Event::Data { stream, bytes, end })
    }
}

fn check_control(version: u16, length: usize) -> Result<(), Failure> {
    if version != VERSION {
        return Err(Failure::Violation("a control frame of another version"));
    }
    if length > CONTROL_FRAME_MAX_BYTES {
        return Err(Failure::Violation("a control frame that is too long"));
    }
    Ok(())
}

/// What a control frame says; none when it has nothing to say to us.
fn control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Option<Event>, Failure> {
    let end = flags & FLAG_FIN != 0;
    let event = match kind {
        SYN_STREAM => {
            let stream = stream(&mut payload)?;
            // Associated stream, priority and slot: of no use here.
            if payload.len() < 6 {
                return Err(SHORT);
            }
            payload.advance(6);
            Event::SynStream {
                stream,
                end,
                block: payload,
            }
        }
        HEADERS => Event::Headers {
            stream: stream(&mut payload)?,
            end,
            block: payload,
        },
        RST_STREAM => {
            let stream = stream(&mut payload)?;
            payload.try_get_u32().map_err(|_| SHORT)?;
            Event::Reset { stream }
        }
        PING => Event::Ping {
            id: payload.try_get_u32().map_err(|_| SHORT)?,
        },
        GOAWAY => Event::GoAway,
        SYN_REPLY => return Err(Failure::Violation("a reply to a stream that nobody opened")),
        // The spec has unknown kinds ignored. Settings and windows are never used, see the crate.
        SETTINGS | WINDOW_UPDATE => return Ok(None),
        _ => return Ok(None),
    };
    Ok(Some(event))
}

const SHORT: Failure = Failure::Violation("a control frame that is too short");

fn stream(payload: &mut Bytes) -> Result<StreamId, Failure> {
    let id = payload.try_get_u32().map_err(|_| SHORT)? & 0x7fff_ffff;
    match id {
        0 => Err(Failure::Violation("stream 0")),
        id => Ok(id),
    }
}

/// Why a stream is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ResetStatus {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// "All streams that you have opened": the last one they could be about.
const LAST_STREAM: StreamId = 0x7fff_ffff;

/// Why a connection is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GoAwayStatus {
    Ok = 0,
    ProtocolError = 1,
}

/// The head of a data frame; `length` is below 2²⁴.
pub(crate) fn data_header(stream: StreamId, length: usize, end: bool) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = stream.to_be_bytes();
    let [.., x, y, z] = length.to_be_bytes();
    [a, b, c, d, u8::from(end) * FLAG_FIN, x, y, z]
}

pub(crate) fn reset(stream: StreamId, status: ResetStatus) -> Vec<u8> {
    let payload = [stream.to_be_bytes(), (status as u32).to_be_bytes()].concat();
    encode(RST_STREAM, &payload)
}

pub(crate) fn ping(id: u32) -> Vec<u8> {
    encode(PING, &id.to_be_bytes())
}

pub(crate) fn go_away(status: GoAwayStatus) -> Vec<u8> {
    let payload = [LAST_STREAM.to_be_bytes(), (status as u32).to_be_bytes()].concat();
    encode(GOAWAY, &payload)
}

/// The beginning of a zlib stream (RFC 1950): deflate with a window of 32 KiB, the dictionary's name.
const ZLIB_HEAD: [u8; 2] = [0x78, 0xbb];

/// A header block without headers, the number 0 in 32 bits, as a stored block of deflate (RFC 1951),
/// and an empty one, which has the reader hand out what it has. So no compressor and its 256 KiB are
/// needed for each connection.
const NO_HEADERS: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Accepts a stream. The first one of a connection begins the stream of compressed headers.
pub(crate) fn reply(stream: StreamId, first: bool) -> Vec<u8> {
    let mut payload = stream.to_be_bytes().to_vec();
    if first {
        payload.extend_from_slice(&ZLIB_HEAD);
        payload.extend_from_slice(&dictionary::ID.to_be_bytes());
    }
    payload.extend_from_slice(&NO_HEADERS);
    encode(SYN_REPLY, &payload)
}

fn encode(kind: u16, payload: &[u8]) -> Vec<u8> {
    let [.., x, y, z] = payload.len().to_be_bytes();
    let mut frame = (CONTROL | VERSION).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&[0, x, y, z]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8], step: usize) -> Result<Vec<Event>, Failure> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::new();
        let mut events = Vec::new();
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(event) = decoder.next(&mut buffer)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    #[test]
    fn frames_are_found_however_they_arrive() {
        let frames = [
            encode(SYN_STREAM, b"\0\0\0\x07\0\0\0\0\0\0block"),
            data_header(7, 3, false).to_vec(),
            b"abc".to_vec(),
            encode(SETTINGS, b"\0\0\0\0"),
            encode(WINDOW_UPDATE, &[0; 8]),
            encode(99, b"unknown"),
            data_header(7, 0, true).to_vec(),
            ping(1),
            reset(7, ResetStatus::Cancel),
            go_away(GoAwayStatus::Ok),
        ]
        .concat();
        let whole = events(&frames, frames.len()).unwrap();
        assert_eq!(
            whole,
            [
                Event::SynStream {
                    stream: 7,
                    end: false,
                    block: Bytes::from_static(b"block")
                },
                Event::Data {
                    stream: 7,
                    bytes: Bytes::from_static(b"abc"),
                    end: false
                },
                Event::Data {
                    stream: 7,
                    bytes: Bytes::new(),
                    end: true
                },
                Event::Ping { id: 1 },
                Event::Reset { stream: 7 },
                Event::GoAway,
            ]
        );
        let dribbled = events(&frames, 1).unwrap();
        assert_eq!(
            dribbled.len(),
            whole.len() + 2,
            "the data came in three parts"
        );
    }

    #[test]
    fn a_long_data_frame_is_handed_on_as_it_comes() {
        let mut bytes = data_header(1, (1 << 24) - 1, true).to_vec();
        bytes.extend_from_slice(&[9; 1000]);
        let events = events(&bytes, 508).unwrap();
        let lengths: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Data { bytes, end, .. } => (bytes.len(), *end),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(500, false), (500, false)]);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for (frame, reason) in [
            (encode(SYN_STREAM, b"\0\0\0\0\0\0\0\0\0\0"), "stream 0"),
            (encode(SYN_STREAM, b"\0\0\0\x01\0"), "too short"),
            (encode(RST_STREAM, b"\0\0\0\x01"), "too short"),
            (encode(PING, b""), "too short"),
            (encode(SYN_REPLY, b"\0\0\0\x01"), "nobody opened"),
            (b"\x80\x02\0\x01\0\0\0\x04abcd".to_vec(), "another version"),
            (b"\x80\x03\0\x04\0\xff\xff\xff".to_vec(), "too long"),
            (b"GET / HTTP/1.1".to_vec()[..8].to_vec(), ""),
        ] {
            match events(&frame, 1) {
                Err(error) => assert!(error.to_string().contains(reason), "{error}"),
                Ok(events) => assert_eq!((events.len(), reason), (0, ""), "{frame:?}"),
            }
        }
    }

    #[test]
    fn random_bytes_neither_panic_nor_hold_more_than_was_read() {
        let mut state = 1_u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..200)
                .map(|at| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    match at % 40 {
                        0 => 0x80,
                        1 => 3,
                        4 => 0,
                        5 => 0,
                        _ => state.to_be_bytes()[0] % 16,
                    }
                })
                .collect();
            let _ = events(&bytes, 17);
        }
    }
}
