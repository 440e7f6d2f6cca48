//! As much of a WebSocket (RFC 6455) as it takes to see the first output of an exec.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The streaming protocol of Kubernetes whose every frame begins with its channel's number.
const PROTOCOL: &str = "v4.channel.k8s.io";
const STDOUT: u8 = 1;

/// The most that an answer's head may have, in bytes.
const HEAD_MAX: usize = 16 << 10;

/// Calls the URL that an Exec answered with, and waits for the first of its output.
pub(crate) async fn first_output(url: &str) -> Result<Vec<u8>> {
    let rest = url.strip_prefix("http://").context("not an http URL")?;
    let (authority, path) = rest.split_once('/').context("a URL without a path")?;
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    loop {
        let frame = read_frame(&mut stream).await?;
        if let Some((&STDOUT, output)) = frame.split_first()
            && !output.is_empty()
        {
            return Ok(output.to_vec());
        }
    }
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_MAX, "an endless head");
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}

/// The payload of a server's frame, which is never masked.
async fn read_frame(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    const LENGTH_IN_16_BITS: u8 = 126;
    const LENGTH_IN_64_BITS: u8 = 127;
    let _opcode = stream.read_u8().await?;
    let length = match stream.read_u8().await? {
        LENGTH_IN_16_BITS => usize::from(stream.read_u16().await?),
        LENGTH_IN_64_BITS => usize::try_from(stream.read_u64().await?)?,
        length => usize::from(length),
    };
    ensure!(length < HEAD_MAX, "a frame of {length} bytes");
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}
