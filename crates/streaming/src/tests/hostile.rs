//! Clients that break the rules, or never take what they asked for.

use super::client::{Frame, Spdy, WebSocket, syn_stream};
use super::forward::{request, shouting};
use super::process::script;
use super::{server, soon};
use crate::spdy::frame::ping;
use crate::websocket::frame::tests::masked;
use tokio::io::AsyncWriteExt;

const V4: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";

/// Reads to the end, and gives the reason for it.
async fn last_words(client: &mut Spdy) -> Option<Frame> {
    let mut last = None;
    while let Some(frame) = client.frame().await {
        last = Some(frame);
    }
    last
}

#[tokio::test]
async fn spdy_that_breaks_the_rules_ends_the_connection() {
    let server = server().await;
    let mut bomb = crate::spdy::headers::tests::HeaderWriter::new();
    let bomb = bomb.compress(&vec![0; 2 << 20]);
    for (what, bytes) in [
        (
            "another version",
            b"\x80\x02\0\x01\0\0\0\x0a\0\0\0\x01\0\0\0\0\0\0".to_vec(),
        ),
        (
            "a long control frame",
            b"\x80\x03\0\x01\0\xff\xff\xff".to_vec(),
        ),
        ("stream 0", syn_stream(0, 0, b"")),
        ("garbled headers", syn_stream(1, 0, b"no zlib")),
        ("a bomb", syn_stream(1, 0, &bomb)),
        ("a reply", b"\x80\x03\0\x02\0\0\0\x04\0\0\0\x01".to_vec()),
        ("a short ping", b"\x80\x03\0\x06\0\0\0\x02ab".to_vec()),
    ] {
        let url = server.port_forward(request(&[])).unwrap();
        let mut client = Spdy::open(&url, FORWARD).await;
        client.write(&bytes).await;
        assert_eq!(
            last_words(&mut client).await,
            Some(Frame::GoAway(1)),
            "{what}"
        );
    }
}

#[tokio::test]
async fn stream_ids_that_were_used_or_are_the_servers_are_refused() {
    let server = server().await;
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), FORWARD).await;
    let headers = [("streamtype", "data"), ("port", "80"), ("requestid", "1")];
    let id = client.stream(&headers).await;
    assert_eq!(client.frame().await, Some(Frame::Reply(id)));
    for bad in [id, 2, 1] {
        let block = client.headers.write(&headers);
        client.write(&syn_stream(bad, 0, &block)).await;
        assert_eq!(client.frame().await, Some(Frame::Reset(bad, 1)));
    }
}

#[tokio::test]
async fn there_are_only_so_many_streams() {
    let server = server().await;
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), FORWARD).await;
    let (mut replies, mut refusals) = (0, 0);
    for number in 0..1100 {
        let id = number.to_string();
        client
            .stream(&[("streamtype", "error"), ("port", "80"), ("requestid", &id)])
            .await;
        match client.frame().await.unwrap() {
            Frame::Reply(_) => replies += 1,
            Frame::Reset(_, 3) => refusals += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((replies, refusals), (1024, 76));
}

#[tokio::test]
async fn streams_beyond_those_of_an_exec_are_of_no_effect() {
    let server = server().await;
    let url = server.exec(script("cat; exit 3")).unwrap();
    let mut client = Spdy::open(&url, V4).await;
    let error = client.role("error").await;
    let first = client.role("stdin").await;
    let second = client.role("stdin").await;
    let stdout = client.role("stdout").await;
    let odd = client.role("sideways").await;
    let unasked = client.role("resize").await;
    client.role("stderr").await;
    client.data(second, b"not input", true).await;
    client.data(unasked, b"not a size", false).await;
    client.data(12345, b"for nobody", true).await;
    client.data(first, b"input", true).await;
    let got = client.rest().await;
    assert_eq!(got[&stdout].text(), "input");
    assert!(got[&odd].reset && got[&second].ended && got[&unasked].ended);
    assert!(got[&error].text().contains("\"3\""));
}

#[tokio::test]
async fn a_client_that_asks_much_and_reads_nothing_is_cut_off() {
    let server = server().await;
    let url = server.port_forward(request(&[])).unwrap();
    let mut client = Spdy::open(&url, FORWARD).await;
    let pings = ping(1).repeat(10_000);
    let flood = async { while client.wire.write_all(&pings).await.is_ok() {} };
    soon(flood).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_one_session_holds_up_no_other() {
    let server = server().await;
    let stuck = server.exec(script("head -c 100000000 /dev/zero")).unwrap();
    let mut stuck = Spdy::open(&stuck, V4).await;
    for role in ["error", "stdin", "stdout", "stderr"] {
        stuck.role(role).await;
    }
    let mut other = WebSocket::open(&server.exec(script("echo fine")).unwrap(), V4).await;
    let (got, _) = other.rest().await;
    assert_eq!(got[&1], b"fine\n");
}

#[tokio::test]
async fn input_that_a_process_does_not_take_holds_up_no_other_stream() {
    let server = server().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (slow, quick) = (listener.local_addr().unwrap().port(), shouting().await);
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), FORWARD).await;
    let mut open = Vec::new();
    for (port, id) in [(slow, "1"), (quick, "2")] {
        let port = port.to_string();
        for role in ["error", "data"] {
            let headers = [
                ("streamtype", role),
                ("port", port.as_str()),
                ("requestid", id),
            ];
            open.push(client.stream(&headers).await);
        }
    }
    // As much as may wait for a stream.
    client
        .data(
            open[1],
            &vec![0; crate::STREAM_QUEUE_MAX_BYTES - 4096],
            false,
        )
        .await;
    client.data(open[3], b"quick", true).await;
    loop {
        match client.frame().await.unwrap() {
            Frame::Data(id, bytes, _) if id == open[3] && !bytes.is_empty() => {
                return assert_eq!(bytes, b"QUICK");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn websockets_that_break_the_rules_are_closed() {
    let server = server().await;
    let mut unmasked = masked(0x82, b"\0x");
    unmasked[1] &= 0x7f;
    for (version, bytes) in [
        (V4, unmasked),
        (V4, masked(0x80, b"\0continued")),
        (V4, masked(0xf2, b"\0extended")),
        (V4, masked(0x89, &[0; 200])),
        ("v5.channel.k8s.io", masked(0x82, &[255])),
        ("v5.channel.k8s.io", masked(0x82, &[255, 0, 0])),
        ("v4.base64.channel.k8s.io", masked(0x81, b"0???")),
    ] {
        let url = server.exec(script("cat")).unwrap();
        let mut client = WebSocket::open(&url, version).await;
        client.wire.write_all(&bytes).await.unwrap();
        let (_, code) = client.rest().await;
        assert_eq!(code, 1002, "{bytes:?}");
    }
}

#[tokio::test]
async fn messages_for_channels_that_are_not_there_are_thrown_away() {
    let server = server().await;
    let url = server.exec(script("read x; echo $x")).unwrap();
    let mut client = WebSocket::open(&url, V4).await;
    for channel in [1, 2, 3, 4, 5, 254, 255] {
        client.send(channel, b"junk\n").await;
    }
    client.write(0x82, b"").await;
    client.send(0, b"input\n").await;
    let (got, _) = client.rest().await;
    assert_eq!(got[&1], b"input\n");
}

#[tokio::test]
async fn requests_that_are_no_http_or_too_long_are_not_read_for_ever() {
    let server = server().await;
    let long = format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(1 << 20));
    for request in ["\x16\x03\x01 not HTTP\r\n\r\n", &long] {
        let mut stream = tokio::net::TcpStream::connect(server.address())
            .await
            .unwrap();
        // The server may have closed by the time that all is written.
        let _ = soon(stream.write_all(request.as_bytes())).await;
        let mut rest = Vec::new();
        let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;
        assert!(rest.len() < 1000, "{} bytes", rest.len());
    }
}

#[tokio::test]
async fn clients_that_say_nothing_keep_no_other_out() {
    let server = server().await;
    let mut silent = Vec::new();
    for _ in 0..1100 {
        let stream = tokio::net::TcpStream::connect(server.address()).await;
        silent.push(stream.unwrap());
    }
    let url = server.exec(script("echo fine")).unwrap();
    let (got, _) = WebSocket::open(&url, V4).await.rest().await;
    assert_eq!(got[&1], b"fine\n");
    // The last of them still may say what it wants.
    let mut last = silent.pop().unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    last.write_all(request).await.unwrap();
    let first = soon(tokio::io::AsyncReadExt::read_u8(&mut last)).await;
    assert_eq!(first.unwrap(), b'H');
}
