//! What a client of exec, attach or port-forward sends over SPDY/3.1.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = crisp_streaming::fuzz::spdy(input);
});
