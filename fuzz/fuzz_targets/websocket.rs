//! What a client of exec, attach or port-forward sends over a WebSocket. The first byte chooses the
//! subprotocol.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = crisp_streaming::fuzz::websocket(input);
});
