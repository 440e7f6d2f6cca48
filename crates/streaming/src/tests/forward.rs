//! Port-forward: pairs of streams, and servers behind ports.

use super::client::{Frame, Got, Spdy, WEBSOCKET_UPGRADE, WebSocket, ask};
use super::{server, soon};
use crate::websocket::frame::tests::masked;
use crate::{PortForwardRequest, Server, Settings};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const VERSION: &str = "portforward.k8s.io";

/// Dials ports of this host, in place of a pod.
pub(super) fn request(ports: &[u16]) -> PortForwardRequest {
    PortForwardRequest {
        ports: ports.to_vec(),
        connect: Arc::new(|port| Box::pin(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))),
    }
}

/// A server that says in capitals what it is told, to the end.
pub(super) async fn shouting() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 8192];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    buffer[..count].make_ascii_uppercase();
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// The streams of a connection: for an error, and for data.
async fn pair(client: &mut Spdy, port: u16, id: &str) -> (u32, u32) {
    let port = port.to_string();
    let mut open = async |role| {
        let headers = [
            ("streamtype", role),
            ("port", port.as_str()),
            ("requestid", id),
        ];
        client.stream(&headers).await
    };
    (open("error").await, open("data").await)
}

/// Reads until each of `ids` has ended.
async fn until_ended(client: &mut Spdy, ids: &[u32]) -> HashMap<u32, Got> {
    let mut streams: HashMap<u32, Got> = HashMap::new();
    while !ids
        .iter()
        .all(|id| streams.get(id).is_some_and(|got| got.ended || got.reset))
    {
        match client.frame().await.expect("the session goes on") {
            Frame::Data(id, bytes, end) => {
                let got = streams.entry(id).or_default();
                got.bytes.extend_from_slice(&bytes);
                got.ended = end;
            }
            Frame::Reset(id, _) => streams.entry(id).or_default().reset = true,
            _ => {}
        }
    }
    streams
}

#[tokio::test]
async fn one_session_carries_many_connections() {
    let server = server().await;
    let port = shouting().await;
    let url = server.port_forward(request(&[])).unwrap();
    let mut client = Spdy::open(&url, VERSION).await;
    let mut ids = Vec::new();
    for number in 0..300 {
        let (error, data) = pair(&mut client, port, &number.to_string()).await;
        client.data(error, b"", true).await;
        client
            .data(data, format!("hello {number}").as_bytes(), true)
            .await;
        ids.extend([error, data]);
        // As many again as there can be at once, one after the other.
        if number % 50 == 49 {
            let got = until_ended(&mut client, &ids[ids.len() - 100..]).await;
            assert_eq!(got[&data].text(), format!("HELLO {number}"));
            assert_eq!(got[&error].text(), "");
        }
    }
}

#[tokio::test]
async fn a_side_that_has_ended_can_still_be_spoken_to() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server().await;
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), VERSION).await;
    let (_, data) = pair(&mut client, port, "1").await;
    let (mut accepted, _) = soon(listener.accept()).await.unwrap();
    accepted.write_all(b"greeting").await.unwrap();
    accepted.shutdown().await.unwrap();
    assert_eq!(
        until_ended(&mut client, &[data]).await[&data].text(),
        "greeting"
    );
    client.data(data, b"answer", true).await;
    let mut answer = String::new();
    soon(accepted.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn an_answer_is_passed_on_by_a_port_that_does_not_listen_to_the_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server().await;
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), VERSION).await;
    let (error, data) = pair(&mut client, port, "1").await;
    let (mut accepted, _) = soon(listener.accept()).await.unwrap();
    accepted.write_all(b"too long").await.unwrap();
    accepted.shutdown().await.unwrap();
    client.data(data, &vec![0; 100_000], false).await;
    drop(accepted);
    client.data(data, &vec![0; 100_000], true).await;
    let got = until_ended(&mut client, &[data, error]).await;
    assert_eq!((got[&data].text(), got[&error].text()), ("too long", ""));
}

#[tokio::test]
async fn clients_without_request_ids_are_understood() {
    let server = server().await;
    let port = shouting().await.to_string();
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), VERSION).await;
    client
        .stream(&[("streamtype", "error"), ("port", &port)])
        .await;
    let data = client
        .stream(&[("streamtype", "data"), ("port", &port)])
        .await;
    client.data(data, b"old", true).await;
    assert_eq!(until_ended(&mut client, &[data]).await[&data].text(), "OLD");
}

#[tokio::test]
async fn what_cannot_be_dialled_is_explained_and_the_session_goes_on() {
    let server = server().await;
    let (closed, open) = (closed_port().await, shouting().await);
    let other = closed_port().await;
    let url = server.port_forward(request(&[closed, open])).unwrap();
    let mut client = Spdy::open(&url, VERSION).await;
    for (port, reason) in [(closed, "refused"), (other, "was not asked for")] {
        let (error, data) = pair(&mut client, port, &port.to_string()).await;
        let got = until_ended(&mut client, &[error, data]).await;
        let said = got[&error].text();
        assert!(
            said.starts_with(&format!("error forwarding port {port}: ")),
            "{said}"
        );
        assert!(said.contains(reason), "{said}");
        assert!(got[&data].reset);
    }
    let (_, data) = pair(&mut client, open, "good").await;
    client.data(data, b"good", true).await;
    assert_eq!(
        until_ended(&mut client, &[data]).await[&data].text(),
        "GOOD"
    );
}

#[tokio::test]
async fn connections_that_failed_do_not_use_up_the_streams() {
    let server = server().await;
    let closed = closed_port().await;
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), VERSION).await;
    for number in 0..600 {
        let (error, data) = pair(&mut client, closed, &number.to_string()).await;
        client.data(error, b"", true).await;
        let got = until_ended(&mut client, &[error, data]).await;
        assert!(got[&error].text().contains("refused"), "{number}: {got:?}");
    }
}

#[tokio::test]
async fn streams_that_make_no_pair_are_refused() {
    let server = Server::start(Settings {
        creation_timeout: Duration::from_millis(100),
        ..Settings::default()
    });
    let server = server.await.unwrap();
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), VERSION).await;
    let port = ("port", "80");
    for headers in [
        vec![port],
        vec![("streamtype", "data")],
        vec![("streamtype", "stdin"), port],
        vec![("streamtype", "data"), ("port", "0")],
        vec![("streamtype", "data"), ("port", "70000")],
    ] {
        let id = client.stream(&headers).await;
        assert_eq!(
            client.frame().await,
            Some(Frame::Reset(id, 3)),
            "{headers:?}"
        );
    }
    let twice = [("streamtype", "data"), port, ("requestid", "1")];
    let (first, second) = (client.stream(&twice).await, client.stream(&twice).await);
    let got = until_ended(&mut client, &[first, second]).await;
    assert!(got[&first].reset && got[&second].reset);
    let alone = client
        .stream(&[("streamtype", "error"), port, ("requestid", "2")])
        .await;
    let got = until_ended(&mut client, &[alone]).await;
    assert!(got[&alone].text().contains("not opened in time"));
}

#[tokio::test]
async fn a_connection_that_the_client_gives_up_is_closed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server().await;
    let mut client = Spdy::open(&server.port_forward(request(&[])).unwrap(), VERSION).await;
    let (_, data) = pair(&mut client, port, "1").await;
    let (mut accepted, _) = soon(listener.accept()).await.unwrap();
    client
        .write(&crate::spdy::frame::reset(
            data,
            crate::spdy::frame::ResetStatus::Cancel,
        ))
        .await;
    let mut rest = Vec::new();
    soon(accepted.read_to_end(&mut rest)).await.unwrap();
    client.ping(1).await;
    while client.frame().await.expect("the session goes on") != Frame::Ping(1) {}
}

#[tokio::test]
async fn a_websocket_has_a_pair_of_channels_for_each_port() {
    let server = server().await;
    let (open, closed) = (shouting().await, closed_port().await);
    let asked = server.port_forward(request(&[open, closed])).unwrap();
    let queried = server.port_forward(request(&[])).unwrap();
    for url in [asked, format!("{queried}?port={open},{closed}")] {
        let mut client = WebSocket::open(&url, "v4.channel.k8s.io").await;
        client.send(0, b"hello").await;
        let mut got: HashMap<u8, Vec<u8>> = HashMap::new();
        while got.get(&0).is_none_or(|bytes| bytes.len() < 7)
            || got.get(&3).is_none_or(|bytes| bytes.len() < 3)
        {
            let (opcode, payload) = client.message().await.unwrap();
            assert_eq!(opcode, 2);
            got.entry(payload[0])
                .or_default()
                .extend_from_slice(&payload[1..]);
        }
        let port = |port: u16| port.to_le_bytes();
        assert_eq!(got[&0], [&port(open)[..], b"HELLO"].concat());
        assert_eq!(got[&1], port(open));
        assert_eq!(got[&2], port(closed));
        assert_eq!(got[&3][..2], port(closed));
        let said = String::from_utf8_lossy(&got[&3][2..]).into_owned();
        assert!(said.contains("refused"), "{said}");
    }
    let url = server.port_forward(request(&[])).unwrap();
    let many = ["port=80"; 40].join("&");
    for query in ["port=0", "port=x", many.as_str()] {
        let refused = ask("GET", &format!("{url}?{query}"), &WEBSOCKET_UPGRADE).await;
        assert_eq!(refused.status, 400, "{query}");
    }
}

#[tokio::test]
async fn spdy_passes_through_a_websocket() {
    let server = server().await;
    let port = shouting().await;
    let url = server.port_forward(request(&[])).unwrap();
    let mut outer = WebSocket::open(&url, "SPDY/3.1+portforward.k8s.io").await;
    let mut inner = Spdy::over(Box::new(tokio::io::duplex(1 << 20).0));
    let (recorded, mut recorder) = tokio::io::duplex(1 << 20);
    inner.wire = Box::new(recorded);
    let (error, data) = pair(&mut inner, port, "1").await;
    inner.data(data, b"through", true).await;
    inner.data(error, b"", true).await;
    drop(inner);
    let mut bytes = Vec::new();
    recorder.read_to_end(&mut bytes).await.unwrap();
    // Frames of SPDY and messages of the WebSocket need not begin and end together.
    for part in bytes.chunks(5) {
        outer.wire.write_all(&masked(0x82, part)).await.unwrap();
    }
    outer.write(0x89, b"are you there?").await;
    let (mut said, mut ponged) = (Vec::new(), false);
    while !(ponged && said.ends_with(b"THROUGH") || said.windows(7).any(|part| part == b"THROUGH"))
    {
        match outer.message().await.unwrap() {
            (2, payload) => said.extend_from_slice(&payload),
            (10, payload) => ponged = payload == b"are you there?",
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(said[..4], [0x80, 3, 0, 2], "the first frame is a reply");
}
