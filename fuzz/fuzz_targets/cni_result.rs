//! What a CNI plugin answers to ADD; the first line is the version that it was asked in. What is kept of an
//! answer is read like the answer, and its addresses are such as an interface can have.
#![no_main]

use crisp_cni::Version;
use crisp_cni::fuzz::result;
use libfuzzer_sys::fuzz_target;
use std::str;

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let Some(asked) = version(&input[..end]) else {
        return;
    };
    let Some((kept, addresses)) = result(&input[end + 1..], asked) else {
        return;
    };
    assert!((1..=16).contains(&addresses.len()), "{addresses:?}");
    for address in addresses.iter().map(|net| net.addr()) {
        let nobodys = address.is_loopback() || address.is_unspecified() || address.is_multicast();
        assert!(!nobodys, "{address}");
    }
    let again = result(kept.as_bytes(), asked).expect("what was kept can be read");
    assert_eq!(again.1, addresses);
});

fn version(line: &[u8]) -> Option<Version> {
    str::from_utf8(line).ok()?.parse().ok()
}
