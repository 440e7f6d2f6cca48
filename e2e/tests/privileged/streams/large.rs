//! A gibibyte through the daemon and back, byte for byte, beside a stream that nobody reads.

use super::{TRANSPORTS, echoing};
use anyhow::{Context, Result, ensure};
use crisp_e2e::Node;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const BLOCK_BYTES: usize = 64 << 10;
const BLOCKS: u64 = (1 << 30) / BLOCK_BYTES as u64;

/// A block whose bytes differ from place to place, so that none can be lost, doubled or moved unseen:
/// its number, then noise (xorshift).
fn block(number: u64, block: &mut [u8]) {
    block[..8].copy_from_slice(&number.to_le_bytes());
}

fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    while bytes.len() < BLOCK_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

async fn send(mut to: impl AsyncWrite + Unpin) -> Result<()> {
    let mut bytes = noise();
    for number in 0..BLOCKS {
        block(number, &mut bytes);
        to.write_all(&bytes).await?;
    }
    Ok(to.shutdown().await?)
}

/// Takes what was sent.
async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let (mut expected, mut got) = (noise(), vec![0; BLOCK_BYTES]);
    for number in 0..BLOCKS {
        block(number, &mut expected);
        from.read_exact(&mut got)
            .await
            .with_context(|| format!("block {number} of {BLOCKS}"))?;
        ensure!(got == expected, "block {number} is another one");
    }
    Ok(())
}

async fn receive_to_the_end(mut from: impl AsyncRead + Unpin) -> Result<()> {
    receive(&mut from).await?;
    let mut more = [0];
    ensure!(from.read(&mut more).await? == 0, "there is more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_gibibyte_through_exec_is_the_same_in_both_directions() -> Result<()> {
    let node = Node::start().await?;
    let (_pod, container) = echoing(&node).await?;
    for transport in TRANSPORTS {
        // Nobody reads what this one says.
        let yes = ["exec", transport, &container.id, "yes"];
        let _unread = node.start_crictl(&yes)?;
        let mut crictl = node.start_crictl(&["exec", "-i", transport, &container.id, "cat"])?;
        let stdin = crictl.stdin.take().context("its input is a pipe")?;
        let mut stdout = crictl.stdout.take().context("its output is a pipe")?;
        if transport.ends_with("spdy") {
            tokio::try_join!(send(stdin), receive_to_the_end(stdout))?;
            ensure!(crictl.wait().await?.success());
        } else {
            // Over a WebSocket crictl cannot say that its input has ended.
            tokio::try_join!(send(stdin), receive(&mut stdout))?;
            crictl.kill().await?;
        }
    }
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_gibibyte_through_a_port_is_the_same_in_both_directions() -> Result<()> {
    let node = Node::start().await?;
    let (pod, _container) = echoing(&node).await?;
    for transport in TRANSPORTS {
        let forward = node.crictl_forward(&[transport, &pod.id, ":7"]).await?;
        let stream = TcpStream::connect(forward.address).await?;
        let (reader, writer) = stream.into_split();
        tokio::try_join!(send(writer), receive_to_the_end(reader))
            .with_context(|| transport.to_owned())?;
    }
    node.finish().await
}
