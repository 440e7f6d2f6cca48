//! Frames: what their bytes mean. No I/O, and no more memory than what has been read.

use crate::buffer::Chunk;
use crate::failure::Failure;
use bytes::{Buf, Bytes, BytesMut};

/// The longest payload of a control frame (RFC 6455, section 5.5), in bytes.
const CONTROL_MAX_BYTES: u64 = 125;
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// The kinds of frames that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Pong = 10,
}

/// Why a connection is closed (RFC 6455, section 7.4.1).
#[derive(Debug, Clone, Copy)]
pub(crate) enum CloseCode {
    Normal = 1000,
    GoingAway = 1001,
    ProtocolError = 1002,
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A part of a message, as much of it as has come.
    Data {
        bytes: BytesMut,
        /// It is the message's first part, or its last.
        starts: bool,
        ends: bool,
    },
    Ping(Bytes),
    Close,
}

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    body: Option<Body>,
    /// A message goes on in the next data frame.
    fragmented: bool,
}

/// The data frame that is in progress.
#[derive(Debug)]
struct Body {
    remaining: u64,
    mask: [u8; 4],
    starts: bool,
    last: bool,
}

#[derive(Debug)]
struct Head {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    length: u64,
    /// Of the head itself.
    bytes: usize,
}

impl Decoder {
    /// Takes the next event from the buffer; none when more has to be read first.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(body) = self.body.take() {
                return Ok(self.data(body, buffer));
            }
            let Some(head) = head(buffer)? else {
                return Ok(None);
            };
            if head.opcode < 8 {
                buffer.advance(head.bytes);
                self.body = Some(self.begin(&head)?);
                continue;
            }
            if !head.last || head.length > CONTROL_MAX_BYTES {
                return Err(Failure::Violation("a control frame that is too long"));
            }
            let Some(payload) = control_payload(&head, buffer) else {
                return Ok(None);
            };
            match head.opcode {
                8 => return Ok(Some(Event::Close)),
                9 => return Ok(Some(Event::Ping(payload))),
                10 => {}
                _ => return Err(Failure::Violation("an unknown control frame")),
            }
        }
    }

    fn begin(&mut self, head: &Head) -> Result<Body, Failure> {
        let starts = match (head.opcode, self.fragmented) {
            (0, true) => false,
            (1 | 2, false) => true,
            (0..=2, _) => return Err(Failure::Violation("fragments out of order")),
            _ => return Err(Failure::Violation("an unknown data frame")),
        };
        self.fragmented = !head.last;
        Ok(Body {
            remaining: head.length,
            mask: head.mask,
            starts,
            last: head.last,
        })
    }

    fn data(&mut self, mut body: Body, buffer: &mut BytesMut) -> Option<Event> {
        if buffer.is_empty() && body.remaining > 0 {
            self.body = Some(body);
            return None;
        }
        let there = buffer
            .len()
            .min(usize::try_from(body.remaining).unwrap_or(usize::MAX));
        let mut bytes = buffer.split_to(there);
        unmask(&mut bytes, &mut body.mask);
        body.remaining -= there as u64;
        let starts = std::mem::take(&mut body.starts);
        let ends = body.last && body.remaining == 0;
        if body.remaining > 0 {
            self.body = Some(body);
        }
        Some(Event::Data {
            bytes,
            starts,
            ends,
        })
    }
}

/// Reads the head of a frame; none when not all of it is there.
fn head(buffer: &[u8]) -> Result<Option<Head>, Failure> {
    let [first, second, rest @ ..] = buffer else {
        return Ok(None);
    };
    if first & RESERVED != 0 {
        return Err(Failure::Violation("an extension that was not agreed on"));
    }
    if second & MASKED == 0 {
        return Err(Failure::Violation("a frame that is not masked"));
    }
    let (length, rest) = match second & !MASKED {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    if length >> 63 != 0 {
        return Err(Failure::Violation("a length of 64 bits"));
    }
    let Some((mask, rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    Ok(Some(Head {
        last: first & FIN != 0,
        opcode: first & 0xf,
        mask: *mask,
        length,
        bytes: buffer.len() - rest.len(),
    }))
}

fn control_payload(head: &Head, buffer: &mut BytesMut) -> Option<Bytes> {
    let length = usize::try_from(head.length).ok()?;
    if buffer.len() < head.bytes + length {
        return None;
    }
    buffer.advance(head.bytes);
    let mut payload = buffer.split_to(length);
    unmask(&mut payload, &mut { head.mask });
    Some(payload.freeze())
}

/// Applies a mask, and turns it to where the following bytes need it.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let word = u32::from_ne_bytes(*mask);
    let wide = u64::from(word) << 32 | u64::from(word);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(bytes.len() % 4);
}

/// Makes a whole message of a chunk.
pub(crate) fn enclose(chunk: &mut Chunk, opcode: Opcode) {
    let first = FIN | opcode as u8;
    let length = chunk.as_bytes().len();
    if let Ok(length @ ..126) = u8::try_from(length) {
        chunk.prepend(&[first, length]);
    } else if let Ok(length) = u16::try_from(length) {
        let [a, b] = length.to_be_bytes();
        chunk.prepend(&[first, 126, a, b]);
    } else {
        chunk.prepend(&(length as u64).to_be_bytes());
        chunk.prepend(&[first, 127]);
    }
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Chunk {
    let mut chunk = Chunk::copy_of(payload);
    enclose(&mut chunk, Opcode::Pong);
    chunk
}

/// The last frame of a connection.
pub(crate) fn close(code: CloseCode) -> Chunk {
    let mut chunk = Chunk::copy_of(&(code as u16).to_be_bytes());
    enclose(&mut chunk, Opcode::Close);
    chunk
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame as clients send it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(MASKED | u8::try_from(length).unwrap()),
            length @ ..65536 => {
                frame.push(MASKED | 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(MASKED | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, &mut mask);
        frame.extend_from_slice(&payload);
        frame
    }

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

    /// The messages, put together again.
    fn messages(events: Vec<Event>) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for event in events {
            if let Event::Data {
                bytes,
                starts,
                ends: _,
            } = event
            {
                if starts {
                    messages.push(Vec::new());
                }
                messages.last_mut().unwrap().extend_from_slice(&bytes);
            }
        }
        messages
    }

    #[test]
    fn messages_are_found_however_they_arrive() {
        let long: Vec<u8> = (0..70_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let bytes = [
            masked(0x82, b"short"),
            masked(0x02, b"frag"),
            masked(0x89, b"ping between"),
            masked(0x00, b"men"),
            masked(0x80, b"ted"),
            masked(0x8a, b"pong"),
            masked(0x82, b""),
            masked(0x81, &long[..300]),
            masked(0x82, &long),
            masked(0x88, &[3, 232]),
        ]
        .concat();
        for step in [1, 7, 4096, bytes.len()] {
            let events = events(&bytes, step).unwrap();
            assert!(events.contains(&Event::Ping(Bytes::from_static(b"ping between"))));
            assert_eq!(events.last(), Some(&Event::Close));
            let messages = messages(events);
            let wanted: [&[u8]; 5] = [b"short", b"fragmented", b"", &long[..300], &long];
            assert!(messages == wanted, "step {step}");
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let mut unmasked = masked(0x82, b"x");
        unmasked[1] &= !MASKED;
        for (bytes, reason) in [
            (unmasked, "not masked"),
            (masked(0xc2, b"x"), "extension"),
            (masked(0x80, b"x"), "out of order"),
            (
                [masked(0x02, b"x"), masked(0x82, b"x")].concat(),
                "out of order",
            ),
            (masked(0x83, b"x"), "unknown data"),
            (masked(0x8b, b"x"), "unknown control"),
            (masked(0x09, b"x"), "too long"),
            (masked(0x89, &[0; 126]), "too long"),
            (
                b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
                "64 bits",
            ),
        ] {
            let error = events(&bytes, 1).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn a_long_frame_is_handed_on_as_it_comes() {
        let bytes = [
            &b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"[..],
            &[1; 100],
        ]
        .concat();
        let lengths: Vec<_> = events(&bytes, 57)
            .unwrap()
            .into_iter()
            .map(|event| match event {
                Event::Data {
                    bytes,
                    starts,
                    ends,
                } => (bytes.len(), starts, ends),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(43, true, false), (57, false, false)]);
    }

    #[test]
    fn what_is_sent_has_the_shortest_head() {
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let mut chunk = Chunk::copy_of(&vec![0; length]);
            enclose(&mut chunk, Opcode::Binary);
            assert_eq!(chunk.as_bytes().len(), head + length);
            assert_eq!(chunk.as_bytes()[0], 0x82);
        }
        assert_eq!(pong(b"x").as_bytes(), [0x8a, 1, b'x']);
        assert_eq!(close(CloseCode::Normal).as_bytes(), [0x88, 2, 3, 232]);
    }
}
