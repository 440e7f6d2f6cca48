//! Clients that attack the streaming server: they are cut off, others are served, and the daemon holds
//! no more memory than it says.

use super::raw::{self, HeaderWriter, SPDY, WEBSOCKET};
use super::{TRANSPORTS, echoing, servants};
use anyhow::{Context, Result, ensure};
use crisp_e2e::{Container, Node};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Someone who behaves is served.
async fn serves_others(node: &Node, container: &Container<'_>) -> Result<()> {
    for transport in TRANSPORTS {
        let done = node
            .crictl(&["exec", transport, &container.id, "echo", "served"])
            .await?;
        ensure!(done.stdout == "served\n", "{done:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stream_tokens_are_good_once_and_for_one_purpose() -> Result<()> {
    let node = Node::start().await?;
    let (pod, container) = echoing(&node).await?;
    let url = raw::exec_url(&node, &container.id, &["cat"]).await?;
    let (host, path) = raw::parts(&url)?;
    let token = path.rsplit('/').next().context("no token")?;
    let status = async |path: &str| {
        let (head, _) = raw::ask(host, path, SPDY).await?;
        anyhow::Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
    };
    for wrong in [
        format!("/attach/{token}"),
        format!("/portforward/{token}"),
        format!("/exec/{token}/"),
        format!("/exec//{token}"),
        format!("/exec/{}", token.to_lowercase() + "x"),
        "/exec/".to_owned(),
        "/exec/../../etc/passwd".to_owned(),
        "/".to_owned(),
    ] {
        let status = status(&wrong).await?;
        ensure!(status == "404", "{wrong}: {status}");
    }
    ensure!(status(path).await? == "101", "its own purpose");
    ensure!(status(path).await? == "404", "a token that was used");
    let mut tokens = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let url = raw::forward_url(&node, &pod.id).await?;
        let token = url.rsplit('/').next().context("no token")?.to_owned();
        ensure!(token.len() >= 20, "{token} can be guessed");
        ensure!(tokens.insert(token), "a token twice");
    }
    serves_others(&node, &container).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stream_urls_are_only_so_many() -> Result<()> {
    let node = Node::start().await?;
    let (pod, container) = echoing(&node).await?;
    let mut given = 0;
    let refused = loop {
        match raw::forward_url(&node, &pod.id).await {
            Ok(_) => given += 1,
            Err(error) => break error,
        }
        ensure!(given <= 1000, "URLs without end");
    };
    let status = refused.downcast::<tonic::Status>()?;
    ensure!(status.code() == tonic::Code::ResourceExhausted, "{status}");
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

/// What no client that keeps to the protocols sends.
fn attacks() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let bomb = HeaderWriter::new().compress(&vec![0; 64 << 20]);
    let many = HeaderWriter::new().write(&[("name", "value"); 5000]);
    let mut endless = vec![0x82, 0xff];
    endless.extend_from_slice(&u64::MAX.to_be_bytes());
    vec![
        ("garbage", SPDY, vec![0xa5; 1 << 20]),
        (
            "a long control frame",
            SPDY,
            b"\x80\x03\0\x01\0\xff\xff\xff".to_vec(),
        ),
        ("a header bomb", SPDY, raw::syn_stream(1, &bomb)),
        ("many headers", SPDY, raw::syn_stream(1, &many)),
        (
            "a ping flood",
            SPDY,
            b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01".repeat(1 << 20),
        ),
        ("garbage", WEBSOCKET, vec![0xa5; 1 << 20]),
        ("an endless message", WEBSOCKET, endless),
        (
            "a message that is not masked",
            WEBSOCKET,
            vec![0x82, 2, 0, b'x'],
        ),
        (
            "a long ping",
            WEBSOCKET,
            vec![0x89, 0xfe, 0xff, 0xff, 0, 0, 0, 0],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_attackers_are_cut_off_and_others_are_served() -> Result<()> {
    let node = Node::start().await?;
    let (_pod, container) = echoing(&node).await?;
    // One that was there before goes on.
    let mut cat = node.start_crictl(&["exec", "-i", &container.id, "cat"])?;
    let mut stdin = cat.stdin.take().context("its input is a pipe")?;
    let mut stdout = cat.stdout.take().context("its output is a pipe")?;
    for (what, upgrade, bytes) in attacks() {
        let url = raw::exec_url(&node, &container.id, &["cat"]).await?;
        let stream = raw::upgrade(&url, upgrade).await?;
        raw::is_cut_off(stream, &bytes).await.context(what)?;
        stdin.write_all(b"x").await?;
        ensure!(stdout.read_u8().await? == b'x', "{what}");
    }
    // Before the upgrade, too.
    let (host, long) = (url_host(&node, &container).await?, "x".repeat(1 << 20));
    for bytes in [
        format!("GET / HTTP/1.1\r\nX-Long: {long}"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        "\x16\x03\x01 no HTTP\r\n\r\n".to_owned(),
    ] {
        let stream = TcpStream::connect(&host).await?;
        raw::is_cut_off(stream, bytes.as_bytes()).await?;
    }
    serves_others(&node, &container).await?;
    node.finish().await
}

/// Where the streaming server listens.
async fn url_host(node: &Node, container: &Container<'_>) -> Result<String> {
    let url = raw::exec_url(node, &container.id, &["true"]).await?;
    Ok(raw::parts(&url)?.0.to_owned())
}

/// More than the server keeps of clients that have not said what they want.
const SILENT_CLIENTS: usize = 1200;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_clients_that_say_nothing_keep_no_other_out() -> Result<()> {
    let node = Node::start().await?;
    let (_pod, container) = echoing(&node).await?;
    let host = url_host(&node, &container).await?;
    let mut silent = Vec::new();
    for index in 0..SILENT_CLIENTS {
        let mut stream = TcpStream::connect(&host).await?;
        if index % 2 == 0 {
            // Half of a request, the rest of which never comes.
            stream.write_all(b"GET /exec/x HTTP/1.1\r\nHost: ").await?;
        }
        silent.push(stream);
    }
    serves_others(&node, &container).await?;
    // Not because the server's patience with the silent ones had run out: of the first that it would
    // have taken in, this one is among the last.
    let patient = &silent[SILENT_CLIENTS - 200];
    let cut_off = tokio::time::timeout(Duration::from_millis(1), patient.readable()).await;
    ensure!(cut_off.is_err(), "others were served when it was cut off");
    node.finish().await
}

/// How many connections push at the server, each over how many streams.
const PUSHERS: usize = 16;
const STREAMS: u32 = 48;
/// What the daemon may hold for them: for each connection what may wait on all its streams, and as much
/// again for what is on its way (crate streaming, `CONNECTION_QUEUE_MAX_BYTES`).
const GROWTH_MAX_BYTES: u64 = PUSHERS as u64 * 2 * (4 << 20);

#[tokio::test(flavor = "multi_thread")]
async fn privileged_memory_is_bounded_whatever_clients_push() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("streams", |_| ()).await?;
    // It takes connections, and nothing that comes on them.
    let container = pod
        .start("main", |config| {
            config.command = crisp_e2e::sh("nc -ll -p 7 -e sleep 1000000");
        })
        .await?;
    let [daemon, _] = servants(&node, &container).await?;
    serves_others(&node, &container).await?;
    let before = daemon.resident_bytes()?;
    let mut pushers = JoinSet::new();
    for _ in 0..PUSHERS {
        let url = raw::forward_url(&node, &pod.id).await?;
        pushers.spawn(push(raw::upgrade(&url, SPDY).await?));
    }
    let pushers: Vec<Result<TcpStream>> = pushers.join_all().await;
    ensure!(pushers.iter().all(Result::is_ok), "{pushers:?}");
    let growth = daemon.resident_bytes()?.saturating_sub(before);
    ensure!(
        growth < GROWTH_MAX_BYTES,
        "the daemon grew by {} MiB",
        growth >> 20
    );
    serves_others(&node, &container).await?;
    drop(pushers);
    node.finish().await
}

/// How long a server that takes something may take for it.
const STALL: Duration = Duration::from_millis(500);

/// Pushes data over many streams until the server takes no more.
async fn push(mut stream: TcpStream) -> Result<TcpStream> {
    let mut headers = HeaderWriter::new();
    for number in 0..STREAMS {
        let frames = raw::connection(&mut headers, number);
        stream.write_all(&frames).await?;
    }
    let chunk = vec![7; 32 << 10];
    for number in (0..STREAMS).cycle() {
        let frame = raw::data(4 * number + 3, &chunk);
        match tokio::time::timeout(STALL, stream.write_all(&frame)).await {
            Ok(written) => written?,
            Err(_) => break,
        }
    }
    Ok(stream)
}
