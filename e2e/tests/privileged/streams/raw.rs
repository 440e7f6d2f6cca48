//! A client of the streaming server that keeps to no rule that it is not made to keep.

use anyhow::{Context, Result, bail, ensure};
use crisp_cri_api::v1::{ExecRequest, PortForwardRequest};
use crisp_e2e::Node;
use flate2::{Compress, Compression, FlushCompress};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What asks for an upgrade to SPDY, without the version of the streams.
pub(super) const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
    X-Stream-Protocol-Version: portforward.k8s.io\r\n";
/// And to a WebSocket.
pub(super) const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n";

const PATIENCE: Duration = Duration::from_secs(60);

/// The URL of a command's streams: stdin and stdout.
pub(super) async fn exec_url(node: &Node, container: &str, command: &[&str]) -> Result<String> {
    let request = ExecRequest {
        container_id: container.to_owned(),
        cmd: command.iter().map(|&word| word.to_owned()).collect(),
        stdin: true,
        stdout: true,
        ..ExecRequest::default()
    };
    Ok(node.runtime().exec(request).await?.into_inner().url)
}

/// The URL of a pod's ports.
pub(super) async fn forward_url(node: &Node, pod: &str) -> Result<String> {
    let request = PortForwardRequest {
        pod_sandbox_id: pod.to_owned(),
        port: vec![7],
    };
    let answer = node.runtime().port_forward(request).await?;
    Ok(answer.into_inner().url)
}

/// The host of a URL, and its path.
pub(super) fn parts(url: &str) -> Result<(&str, &str)> {
    let rest = url.split_once("://").context("no scheme")?.1;
    Ok(rest.split_at(rest.find('/').context("no path")?))
}

/// Sends the head of a request, and reads that of the answer.
pub(super) async fn ask(host: &str, path: &str, headers: &str) -> Result<(String, TcpStream)> {
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await??;
    Ok((String::from_utf8(head)?, stream))
}

/// The connection behind an upgrade.
pub(super) async fn upgrade(url: &str, headers: &str) -> Result<TcpStream> {
    let (host, path) = parts(url)?;
    let (head, stream) = ask(host, path, headers).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(stream)
}

/// Writes until the server has closed the connection; fails when it takes all.
pub(super) async fn is_cut_off(mut stream: TcpStream, bytes: &[u8]) -> Result<()> {
    let cut_off = async {
        // What the server has said before it closes is of no interest.
        let mut said = vec![0; 64 << 10];
        if stream.write_all(bytes).await.is_err() {
            return Ok(());
        }
        loop {
            match stream.read(&mut said).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    };
    match tokio::time::timeout(PATIENCE, cut_off).await {
        Ok(result) => result,
        Err(_) => bail!("the connection stands"),
    }
}

/// Header blocks of a SPDY connection; a dictionary is not compulsory in zlib (RFC 1950, FDICT).
pub(super) struct HeaderWriter(Compress);

impl HeaderWriter {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::best(), true))
    }

    /// Any bytes in the place of headers.
    pub(super) fn compress(&mut self, text: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(text.len() + 1024);
        self.0
            .compress_vec(text, &mut block, FlushCompress::Sync)
            .expect("there is room for what does not compress");
        block
    }

    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let number = |length: usize| u32::try_from(length).expect("short").to_be_bytes();
        let mut text = number(headers.len()).to_vec();
        for word in headers.iter().flat_map(|(name, value)| [name, value]) {
            text.extend_from_slice(&number(word.len()));
            text.extend_from_slice(word.as_bytes());
        }
        self.compress(&text)
    }
}

/// A frame that opens a stream.
pub(super) fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len() + 10)
        .expect("short")
        .to_be_bytes();
    let mut frame = vec![0x80, 3, 0, 1, 0];
    frame.extend_from_slice(&length[1..]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(block);
    frame
}

/// A frame with data for a stream.
pub(super) fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    let mut frame = id.to_be_bytes().to_vec();
    frame.push(0);
    frame.extend_from_slice(&length[1..]);
    frame.extend_from_slice(bytes);
    frame
}

/// A pair of streams for a connection to port 7 of a pod; the second one is for its data.
pub(super) fn connection(headers: &mut HeaderWriter, number: u32) -> Vec<u8> {
    let id = number.to_string();
    let mut frames = Vec::new();
    for (offset, role) in [(1, "error"), (3, "data")] {
        let block = headers.write(&[("streamtype", role), ("port", "7"), ("requestid", &id)]);
        frames.extend(syn_stream(4 * number + offset, &block));
    }
    frames
}
