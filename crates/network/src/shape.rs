//! How fast a pod may receive and send: a token bucket (tc-tbf(8)) at either end of its veth pair.
//!
//! What goes to the pod leaves by the host's end, what comes from it by its own. The latter is in the
//! pod's namespace, where a container with CAP_NET_ADMIN can change it.

use crate::wire::Batch;
use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use std::num::NonZeroU64;

/// Attributes of the discipline (linux/pkt_sched.h).
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: the kernel needs no table of rates.
const LINK_LAYER_ETHERNET: u8 = 1;

/// What may go at once without regard to the rate: 50 ms' worth, but always some packets of the largest
/// size, and never more than a link of 10 Gbit/s needs.
const BURST_PARTS: u64 = 20;
const BURST_BYTES_MIN: u64 = 64 << 10;
const BURST_BYTES_MAX: u64 = 64 << 20;

/// What waits beyond that, 25 ms' worth; the rest is dropped, which tells a sender to be slower.
const QUEUE_PARTS: u64 = 40;

/// Limits what leaves by an interface.
pub(crate) fn push(batch: &mut Batch, index: u32, bits_per_s: Option<NonZeroU64>) {
    let Some(bits_per_s) = bits_per_s else { return };
    batch.push(
        "limit the pod's bandwidth",
        NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        bucket(index, bits_per_s.get() / 8),
    );
}

fn bucket(index: u32, bytes_per_s: u64) -> Message {
    let burst = (bytes_per_s / BURST_PARTS).clamp(BURST_BYTES_MIN, BURST_BYTES_MAX);
    let queue = burst + bytes_per_s / QUEUE_PARTS;
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    let option = |kind, bytes: &[u8]| TcOption::Other(DefaultNla::new(kind, bytes.to_vec()));
    message.attributes = vec![
        TcAttribute::Kind("tbf".to_owned()),
        TcAttribute::Options(vec![
            option(TCA_TBF_PARMS, &parameters(bytes_per_s, queue)),
            option(TCA_TBF_RATE64, &bytes_per_s.to_ne_bytes()),
            option(TCA_TBF_BURST, &saturated(burst).to_ne_bytes()),
        ]),
    ];
    Message::NewQueueDiscipline(message)
}

/// `struct tc_tbf_qopt`: the rate, no peak rate, the queue's length; the burst comes by itself.
fn parameters(bytes_per_s: u64, queue_bytes: u64) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[1] = LINK_LAYER_ETHERNET;
    bytes[8..12].copy_from_slice(&saturated(bytes_per_s).to_ne_bytes());
    bytes[24..28].copy_from_slice(&saturated(queue_bytes).to_ne_bytes());
    bytes
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_those_of_the_kernels_struct() {
        let bytes = parameters(1_000_000, 90_000);
        assert_eq!(bytes[..4], [0, 1, 0, 0]);
        assert_eq!(bytes[8..12], 1_000_000_u32.to_ne_bytes());
        assert_eq!(bytes[24..28], 90_000_u32.to_ne_bytes());
        let others = bytes[12..24].iter().chain(&bytes[28..]);
        assert!(others.copied().all(|byte| byte == 0));
    }
}
