//! The channels of a WebSocket: the first byte of a message says for which one it is.
//!
//! Their subprotocols are `channel.k8s.io` and, all in text, `base64.channel.k8s.io`: the number of the
//! channel as a digit, then base64. With `v5.channel.k8s.io`, byte 255 and a channel close that channel.

use crate::buffer::Chunk;
use crate::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};

/// The first byte of a message that closes a channel.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Binary,
    Base64,
}

impl Codec {
    /// The text that carries `payload` on a channel.
    pub(crate) fn encode(self, channel: u8, payload: &[u8]) -> Chunk {
        let mut text = String::with_capacity(1 + payload.len().div_ceil(3) * 4);
        text.push(char::from(b'0' + channel));
        STANDARD.encode_string(payload, &mut text);
        Chunk::copy_of(text.as_bytes())
    }
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A part of a message.
    Data { channel: u8, bytes: Bytes },
    /// The client has sent all it had to send on a channel.
    HalfClose { channel: u8 },
}

/// What is known of the message that is in progress.
#[derive(Debug)]
enum State {
    Start,
    Channel(u8),
    Closing,
    Closed,
}

/// Understands messages, part by part.
#[derive(Debug)]
pub(crate) struct ChannelDecoder {
    codec: Codec,
    half_close: bool,
    state: State,
    /// The begin of a group of four characters of base64.
    group: BytesMut,
}

impl ChannelDecoder {
    pub(crate) fn new(codec: Codec, half_close: bool) -> Self {
        Self {
            codec,
            half_close,
            state: State::Start,
            group: BytesMut::new(),
        }
    }

    /// Takes the next part of a message, which is its first if it `starts`, and its last if it `ends`.
    pub(crate) fn part(
        &mut self,
        mut bytes: BytesMut,
        starts: bool,
        ends: bool,
    ) -> Result<Option<Message>, Failure> {
        if starts {
            self.state = State::Start;
            self.group.clear();
        }
        if let State::Start = self.state {
            let Ok(first) = bytes.try_get_u8() else {
                return Ok(None);
            };
            self.state = match self.codec {
                Codec::Binary if first == CLOSE && self.half_close => State::Closing,
                Codec::Binary => State::Channel(first),
                Codec::Base64 => State::Channel(first.wrapping_sub(b'0')),
            };
        }
        match self.state {
            State::Channel(channel) => {
                let bytes = self.decode(bytes, ends)?;
                Ok(Some(Message::Data { channel, bytes }))
            }
            _ => self.closing(&bytes, ends),
        }
    }

    fn closing(&mut self, bytes: &[u8], ends: bool) -> Result<Option<Message>, Failure> {
        match (&self.state, bytes) {
            (State::Closing, [channel]) => {
                self.state = State::Closed;
                Ok(Some(Message::HalfClose { channel: *channel }))
            }
            (State::Closing, []) if !ends => Ok(None),
            (State::Closed, []) => Ok(None),
            _ => Err(Failure::Violation("a message that closes no channel")),
        }
    }

    fn decode(&mut self, bytes: BytesMut, ends: bool) -> Result<Bytes, Failure> {
        if self.codec == Codec::Binary {
            return Ok(bytes.freeze());
        }
        self.group.unsplit(bytes);
        let whole = match ends {
            true => self.group.len(),
            false => self.group.len() & !3,
        };
        let text = self.group.split_to(whole);
        let bytes = STANDARD.decode(text);
        Ok(bytes
            .map_err(|_| Failure::Violation("what is no base64"))?
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(channel: u8, bytes: &'static [u8]) -> Message {
        let bytes = Bytes::from_static(bytes);
        Message::Data { channel, bytes }
    }

    fn whole(decoder: &mut ChannelDecoder, bytes: &[u8]) -> Result<Option<Message>, Failure> {
        decoder.part(bytes.into(), true, true)
    }

    #[test]
    fn the_first_byte_says_the_channel() {
        let mut decoder = ChannelDecoder::new(Codec::Binary, false);
        assert_eq!(
            whole(&mut decoder, b"\x00in").unwrap(),
            Some(data(0, b"in"))
        );
        assert_eq!(whole(&mut decoder, b"\x04").unwrap(), Some(data(4, b"")));
        assert_eq!(
            whole(&mut decoder, b"\xff\x00").unwrap(),
            Some(data(255, b"\0"))
        );
        assert_eq!(whole(&mut decoder, b"").unwrap(), None);
        assert_eq!(decoder.part((&b""[..]).into(), true, false).unwrap(), None);
        let middle = decoder.part((&b"\x02mid"[..]).into(), false, false);
        assert_eq!(middle.unwrap(), Some(data(2, b"mid")));
        let end = decoder.part((&b"dle"[..]).into(), false, true);
        assert_eq!(end.unwrap(), Some(data(2, b"dle")));
    }

    #[test]
    fn base64_is_decoded_across_fragments() {
        let mut decoder = ChannelDecoder::new(Codec::Base64, false);
        assert_eq!(
            whole(&mut decoder, b"0aGVsbG8=").unwrap(),
            Some(data(0, b"hello"))
        );
        let mut read = Vec::new();
        let text = b"1aGVsbG8gd29ybGQ=";
        for (at, byte) in text.iter().enumerate() {
            let part = BytesMut::from(&[*byte][..]);
            let message = decoder.part(part, at == 0, at == text.len() - 1).unwrap();
            if let Some(Message::Data { channel: 1, bytes }) = message {
                read.extend_from_slice(&bytes);
            }
        }
        assert_eq!(read, b"hello world");
        whole(&mut decoder, b"0a").unwrap_err();
        whole(&mut decoder, b"0a$Bc").unwrap_err();
        let text = Codec::Base64.encode(1, b"hello");
        assert_eq!(text.as_bytes(), b"1aGVsbG8=");
    }

    #[test]
    fn version_5_closes_channels() {
        let mut decoder = ChannelDecoder::new(Codec::Binary, true);
        let closed = Some(Message::HalfClose { channel: 0 });
        assert_eq!(whole(&mut decoder, b"\xff\x00").unwrap(), closed);
        let part = |decoder: &mut ChannelDecoder, bytes: &[u8], starts, ends| {
            decoder.part(bytes.into(), starts, ends)
        };
        assert_eq!(part(&mut decoder, b"\xff", true, false).unwrap(), None);
        assert_eq!(part(&mut decoder, b"\x00", false, false).unwrap(), closed);
        assert_eq!(part(&mut decoder, b"", false, true).unwrap(), None);
        whole(&mut decoder, b"\xff").unwrap_err();
        whole(&mut decoder, b"\xff\x00\x00").unwrap_err();
    }
}
