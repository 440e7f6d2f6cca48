//! Exec and attach: streams, exit codes, terminals.

use super::client::{Frame, Spdy, WebSocket};
use super::process::{script, start, terminal_script};
use super::{server, soon};
use crate::{Exit, Process, ProcessRequest, Server, StartFailure};
use nix::unistd::pipe;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V4: &str = "v4.channel.k8s.io";
const EXIT_3: &str = r#""details":{"causes":[{"reason":"ExitCode","message":"3"}]}"#;

/// The streams of a client, in the order that clients open them.
struct Streams {
    error: u32,
    stdin: u32,
    stdout: u32,
    stderr: u32,
}

async fn open_all(client: &mut Spdy) -> Streams {
    Streams {
        error: client.role("error").await,
        stdin: client.role("stdin").await,
        stdout: client.role("stdout").await,
        stderr: client.role("stderr").await,
    }
}

#[tokio::test]
async fn over_spdy_a_process_gets_its_input_and_the_client_its_outputs_and_exit_code() {
    let server = server().await;
    let url = server
        .exec(script("cat; echo complaint >&2; exit 3"))
        .unwrap();
    let mut client = Spdy::open(&url, V4).await;
    let streams = open_all(&mut client).await;
    for id in [streams.error, streams.stdin, streams.stdout, streams.stderr] {
        assert_eq!(client.frame().await, Some(Frame::Reply(id)));
    }
    client.data(streams.stdin, b"in", false).await;
    client.data(streams.stdin, b"put", true).await;
    let got = client.rest().await;
    assert_eq!(got[&streams.stdout].text(), "input");
    assert_eq!(got[&streams.stderr].text(), "complaint\n");
    assert!(got[&streams.error].text().contains(EXIT_3));
    assert!(got.values().all(|got| got.ended && !got.reset), "{got:?}");
}

#[tokio::test]
async fn older_versions_of_spdy_carry_text_on_the_error_stream() {
    let server = server().await;
    for version in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        for (text, said) in [
            (
                "exit 3",
                "command terminated with non-zero exit code: exit status 3",
            ),
            ("exit 0", ""),
        ] {
            let mut client = Spdy::open(&server.exec(script(text)).unwrap(), version).await;
            let streams = open_all(&mut client).await;
            assert_eq!(
                client.rest().await[&streams.error].text(),
                said,
                "{version}"
            );
        }
    }
}

#[tokio::test]
async fn over_every_websocket_version_a_process_speaks_and_exits() {
    let server = server().await;
    for (version, status) in [
        ("", "exit status 3"),
        ("channel.k8s.io", "exit status 3"),
        (V4, EXIT_3),
        ("v5.channel.k8s.io", EXIT_3),
    ] {
        let url = server
            .exec(script("read x; echo $x; echo no >&2; exit 3"))
            .unwrap();
        let mut client = WebSocket::open(&url, version).await;
        assert_eq!(
            client.message().await,
            Some((2, vec![1])),
            "the connection stands"
        );
        client.send(0, b"yes\n").await;
        let (got, code) = client.rest().await;
        assert_eq!(got[&1], b"yes\n", "{version}");
        assert_eq!(got[&2], b"no\n");
        let error = String::from_utf8(got[&3].clone()).unwrap();
        assert!(error.contains(status), "{version}: {error}");
        assert_eq!(code, 1000);
    }
}

#[tokio::test]
async fn base64_websockets_carry_text_only() {
    let server = server().await;
    for version in ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let url = server.exec(script("read x; echo $x")).unwrap();
        let mut client = WebSocket::open(&url, version).await;
        assert_eq!(client.message().await, Some((1, b"1".to_vec())));
        client.write(0x81, b"0eWVzCg==").await;
        let (got, code) = client.rest().await;
        assert_eq!(got[&b'1'], b"eWVzCg==", "{version}");
        assert_eq!(code, 1000);
    }
}

#[tokio::test]
async fn version_5_ends_the_input() {
    let server = server().await;
    let url = server.exec(script("cat; echo end")).unwrap();
    let mut client = WebSocket::open(&url, "v5.channel.k8s.io").await;
    client.send(0, b"input ").await;
    client.write(0x82, &[255, 0]).await;
    let (got, _) = client.rest().await;
    assert_eq!(got[&1], b"input end\n");
}

#[tokio::test]
async fn a_terminal_has_the_size_that_the_client_gives_it() {
    let server = server().await;
    let text = "until [ \"$(stty size)\" = '43 132' ]; do :; done; cat; echo over";
    let url = server.exec(terminal_script(text)).unwrap();
    let mut client = Spdy::open(&url, V4).await;
    let error = client.role("error").await;
    let stdin = client.role("stdin").await;
    let stdout = client.role("stdout").await;
    let resize = client.role("resize").await;
    client
        .data(
            resize,
            b"{\"Width\":80,\"Height\":24}\n{\"Width\":132,",
            false,
        )
        .await;
    client.data(resize, b"\"Height\":43}\n", false).await;
    client.data(stdin, b"typed\n", true).await;
    let got = client.rest().await;
    let said = got[&stdout].text();
    assert!(said.contains("typed") && said.contains("over"), "{said:?}");
    assert!(got[&error].text().contains("Success"));
}

#[tokio::test]
async fn a_process_that_cannot_be_started_is_explained() {
    let server = server().await;
    let request = || ProcessRequest {
        start: start(|| Err(StartFailure("no such program".to_owned()))),
        ..script("")
    };
    let mut client = Spdy::open(&server.exec(request()).unwrap(), V4).await;
    let streams = open_all(&mut client).await;
    let got = client.rest().await;
    let said = got[&streams.error].text();
    assert!(
        said.contains("error executing command in container: no such program"),
        "{said}"
    );
    assert!(said.contains(r#""reason":"InternalError""#), "{said}");
    let mut client = WebSocket::open(&server.attach(request()).unwrap(), V4).await;
    let (got, _) = client.rest().await;
    let said = String::from_utf8(got[&3].clone()).unwrap();
    assert!(
        said.contains("error attaching to container: no such program"),
        "{said}"
    );
}

#[tokio::test]
async fn output_that_something_else_holds_open_does_not_hold_the_client() {
    let server = server().await;
    let url = server.exec(script("sleep 1000 & echo $!; exit 3")).unwrap();
    let mut client = WebSocket::open(&url, V4).await;
    let (got, _) = client.rest().await;
    let child = String::from_utf8(got[&1].clone()).unwrap();
    assert!(String::from_utf8(got[&3].clone()).unwrap().contains(EXIT_3));
    let killed = std::process::Command::new("kill")
        .arg(child.trim())
        .status();
    assert!(killed.unwrap().success());
}

#[tokio::test]
async fn an_attachment_ends_well_when_detached_and_badly_when_cut_off() {
    let server = server().await;
    let attach = |exit: fn() -> crate::BoxFuture<Exit>| ProcessRequest {
        stdin: false,
        stderr: false,
        start: start(move || {
            let (reader, writer) = pipe().unwrap();
            nix::unistd::write(&writer, b"output").unwrap();
            Ok(Process {
                stdin: None,
                stdout: Some(reader),
                stderr: None,
                resize: None,
                exit: exit(),
            })
        }),
        ..script("")
    };
    let detached = attach(|| Box::pin(ready(Exit::Detached)));
    let mut client = WebSocket::open(&server.attach(detached).unwrap(), V4).await;
    let (got, _) = client.rest().await;
    assert_eq!(
        (got[&1].as_slice(), got[&3].as_slice()),
        (&b"output"[..], &br#"{"status":"Success"}"#[..])
    );
    let cut_off = attach(|| Box::pin(pending()));
    let mut client = WebSocket::open(&server.attach(cut_off).unwrap(), V4).await;
    let (got, _) = client.rest().await;
    let said = String::from_utf8(got[&3].clone()).unwrap();
    assert!(said.contains("was not read fast enough"), "{said}");
}

/// Sets a flag when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A process that never exits, and what becomes true when the server lets go of it.
fn endless(server: &Server) -> (String, Arc<AtomicBool>, std::os::fd::OwnedFd) {
    let dropped = Arc::new(AtomicBool::new(false));
    let (flag, (reader, theirs)) = (Flag(dropped.clone()), pipe().unwrap());
    let request = ProcessRequest {
        stdout: false,
        stderr: false,
        start: start(move || {
            Ok(Process {
                stdin: Some(crate::Stdin::Pipe(theirs)),
                stdout: None,
                stderr: None,
                resize: None,
                exit: Box::pin(async move {
                    let _flag = flag;
                    pending().await
                }),
            })
        }),
        ..script("")
    };
    (server.exec(request).unwrap(), dropped, reader)
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_input_and_lets_go_of_the_process() {
    let server = server().await;
    let (url, dropped, input) = endless(&server);
    let mut client = Spdy::open(&url, V4).await;
    client.role("error").await;
    let stdin = client.role("stdin").await;
    client.data(stdin, b"last words", false).await;
    let mut input = tokio::net::unix::pipe::Receiver::from_owned_fd(input).unwrap();
    let mut read = [0; 10];
    soon(input.read_exact(&mut read)).await.unwrap();
    client.wire.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(input.read_to_end(&mut rest)).await.unwrap();
    assert_eq!((&read, rest.as_slice()), (b"last words", &b""[..]));
    soon(async {
        while !dropped.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn dropping_the_server_ends_its_sessions() {
    let server = server().await;
    let (url, _dropped, _input) = endless(&server);
    let mut client = WebSocket::open(&url, V4).await;
    assert!(client.message().await.is_some(), "the session has begun");
    drop(server);
    assert_eq!(client.message().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_data_passes_unchanged_in_both_directions_at_once() {
    const ROUNDS: u32 = 2000;
    let server = server().await;
    let url = server.exec(script("cat")).unwrap();
    let mut client = Spdy::open(&url, V4).await;
    let streams = open_all(&mut client).await;
    let Spdy { wire, .. } = client;
    let (reader, mut writer) = tokio::io::split(wire);
    let sending = tokio::spawn(async move {
        for round in 0..ROUNDS {
            let text: Vec<u8> = (0..4000)
                .flat_map(|at| (round * 4000 + at).to_le_bytes())
                .collect();
            let head =
                crate::spdy::frame::data_header(streams.stdin, text.len(), round == ROUNDS - 1);
            writer.write_all(&head).await.unwrap();
            writer.write_all(&text).await.unwrap();
        }
        writer
    });
    let mut client = Spdy::over(Box::new(tokio::io::join(reader, tokio::io::sink())));
    let got = client.rest().await;
    let bytes = &got[&streams.stdout].bytes;
    assert_eq!(bytes.len(), 16000 * ROUNDS as usize);
    let mut numbers = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|number| u32::from_le_bytes(*number));
    assert!((0..4000 * ROUNDS).all(|wanted| numbers.next() == Some(wanted)));
    drop(sending.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_are_served_at_once() {
    let server = Arc::new(server().await);
    let sessions = (0..60).map(|number| {
        let server = server.clone();
        tokio::spawn(async move {
            let url = server.exec(script(&format!("cat; exit {number}"))).unwrap();
            let mut client = Spdy::open(&url, V4).await;
            let streams = open_all(&mut client).await;
            let text = vec![number; 100_000];
            client.data(streams.stdin, &text, true).await;
            let got = client.rest().await;
            assert!(got[&streams.stdout].bytes == text);
            assert!(
                number == 0
                    || got[&streams.error]
                        .text()
                        .contains(&format!("\"{number}\""))
            );
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.unwrap();
    }
}
