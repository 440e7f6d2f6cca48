//! Ways in for fuzzers: what a client could send, without a connection. Not for anybody else.

use crate::spdy::frame::{Decoder, Event};
use crate::spdy::headers::HeaderReader;
use crate::websocket::channel::{ChannelDecoder, Codec};
use crate::websocket::frame;
use bytes::BytesMut;

/// Understands `input` as what a SPDY client sends, header blocks included. Counts what was understood.
#[must_use]
pub fn spdy(input: &[u8]) -> usize {
    let (mut decoder, mut headers) = (Decoder::default(), HeaderReader::new());
    let mut buffer = BytesMut::from(input);
    let mut understood = 0;
    while let Ok(Some(event)) = decoder.next(&mut buffer) {
        if let Event::SynStream { block, .. } | Event::Headers { block, .. } = &event
            && headers.read(block).is_err()
        {
            break;
        }
        understood += 1;
    }
    understood
}

/// Understands `input` as what a client sends over a WebSocket with channels. Counts what was
/// understood.
#[must_use]
pub fn websocket(input: &[u8]) -> usize {
    let Some((first, input)) = input.split_first() else {
        return 0;
    };
    let codec = match first & 1 {
        0 => Codec::Binary,
        _ => Codec::Base64,
    };
    let mut channels = ChannelDecoder::new(codec, first & 2 != 0);
    let mut decoder = frame::Decoder::default();
    let mut buffer = BytesMut::from(input);
    let mut understood = 0;
    while let Ok(Some(event)) = decoder.next(&mut buffer) {
        if let frame::Event::Data {
            bytes,
            starts,
            ends,
        } = event
            && channels.part(bytes, starts, ends).is_err()
        {
            break;
        }
        understood += 1;
    }
    understood
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::headers::tests::HeaderWriter;
    use crate::websocket::frame::tests::masked;

    fn random(state: &mut u64) -> u8 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    }

    /// Changes a byte here and there.
    fn mutate(input: &[u8], state: &mut u64) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=random(state) % 4 {
            let at = usize::from(random(state)) * bytes.len() / 256;
            bytes[at] = random(state);
        }
        bytes
    }

    #[test]
    fn spoiled_sessions_are_survived() {
        let mut writer = HeaderWriter::new();
        let open = |block: &[u8]| {
            let mut frame = vec![
                0x80,
                3,
                0,
                1,
                0,
                0,
                0,
                u8::try_from(block.len() + 10).unwrap(),
            ];
            frame.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            frame.extend_from_slice(block);
            frame
        };
        let spdy_session = [
            open(&writer.write(&[("streamtype", "error"), ("port", "80")])),
            open(&writer.write(&[("streamtype", "data"), ("port", "80")])),
            b"\0\0\0\x03\x01\0\0\x04data".to_vec(),
            crate::spdy::frame::ping(1),
        ]
        .concat();
        let websocket_session = [
            b"\x02".to_vec(),
            masked(0x82, b"\0input"),
            masked(0x89, b"ping"),
            masked(0x02, b"\xff"),
            masked(0x80, b"\0"),
        ]
        .concat();
        assert_eq!(spdy(&spdy_session), 4);
        assert_eq!(websocket(&websocket_session), 4);
        let mut state = 1;
        let fewer = (0..5000).filter(|_| {
            let _ = websocket(&mutate(&websocket_session, &mut state));
            spdy(&mutate(&spdy_session, &mut state)) < 4
        });
        assert!(fewer.count() > 1000, "most spoiled sessions end early");
    }
}
