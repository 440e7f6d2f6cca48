//! What holds for all packets, also those of peers that are newer, torn or hostile.

use super::*;
use crate::message::Exit;
use proptest::prelude::*;

fn exits() -> impl Strategy<Value = Exit> {
    let ids = (".*", ".*");
    (ids, any::<(i32, i32, bool, i64)>()).prop_map(
        |((container_id, exec_id), (code, signal, oom_killed, finished_at_ns))| Exit {
            container_id,
            exec_id,
            code,
            signal,
            oom_killed,
            finished_at_ns,
            ..Exit::default()
        },
    )
}

/// A field of a number that no message has, with some bytes (protobuf's wire type 2).
fn later_field(bytes: &[u8]) -> Vec<u8> {
    const FIELD: u32 = 1000;
    let mut field = Vec::new();
    prost::encoding::encode_key(
        FIELD,
        prost::encoding::WireType::LengthDelimited,
        &mut field,
    );
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

proptest! {
    #[test]
    fn whatever_comes_is_a_packet_or_malformed(bytes: Vec<u8>) {
        if let Ok(packet) = decode(&bytes) {
            let again = decode(&encode(&packet).unwrap()).unwrap();
            prop_assert_eq!(again, packet);
        }
    }

    #[test]
    fn a_packet_is_read_as_it_was_written(exit in exits()) {
        let packet = event(event::Body::Exit(exit));
        prop_assert_eq!(decode(&encode(&packet).unwrap()).unwrap(), packet);
    }

    #[test]
    fn fields_of_a_later_release_are_skipped(exit in exits(), bytes: Vec<u8>) {
        let packet = event(event::Body::Exit(exit));
        let longer = [encode(&packet).unwrap(), later_field(&bytes)].concat();
        prop_assert_eq!(decode(&longer).unwrap(), packet);
    }

    #[test]
    fn a_packet_is_never_longer_than_its_bound(padding in 0..2 * MAX_PACKET_BYTES) {
        let exit = Exit { container_id: "x".repeat(padding), ..Exit::default() };
        match encode(&event(event::Body::Exit(exit))) {
            Ok(bytes) => prop_assert!(bytes.len() <= MAX_PACKET_BYTES),
            Err(PacketError::TooLong { bytes }) => prop_assert!(bytes > MAX_PACKET_BYTES),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
