//! What clients have of processes and ports over streams, by crictl. A stream ends with the daemon that serves
//! it; another attempt has another one.

use super::requests::{id_of, internal, known_pod};
use crate::finding::Finding;
use crate::kubelet::{Kubelet, Outcome};
use crate::model::Flux;
use anyhow::{Context, Result, ensure};
use crisp_e2e::Node;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

const INPUT: &str = "some input\n";

/// Has a server run that answers each byte with itself.
const SERVE: &str = "nc -ll -p 8080 -e cat >/dev/null 2>&1 & \
                     until netstat -tln | grep -q :8080; do sleep 0.05; done";

pub(super) async fn exec(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let id = id_of(k, "count")?;
    let exec = async |node: &Node| {
        let command = ["exec", "-i", &id, "sh", "-c", "cat; exit 3"];
        let output = node.try_crictl_with_input(&command, INPUT).await;
        let is_right = |it: &crisp_e2e::Output| it.stdout == INPUT && it.code != Some(0);
        let checked = output.and_then(|it| {
            ensure!(is_right(&it), "{it:?}");
            Ok(())
        });
        checked.map_err(internal)
    };
    k.step("Exec over a stream", Flux::Nothing, exec).await
}

pub(super) async fn attach(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let id = id_of(k, "count")?;
    let attach = async |node: &Node| {
        let attached = node.start_crictl(&["attach", &id]);
        let heard = match attached {
            Ok(crictl) => hear_a_number(crictl).await,
            Err(error) => Err(error),
        };
        heard.map_err(internal)
    };
    k.step("Attach", Flux::Nothing, attach).await
}

/// The container that counts is heard as long as somebody listens.
async fn hear_a_number(mut crictl: Child) -> Result<()> {
    let output = crictl.stdout.take().context("its output is a pipe")?;
    let line = BufReader::new(output).lines().next_line().await?;
    line.context("nothing is heard")?.parse::<u64>()?;
    Ok(())
}

pub(super) async fn forward(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let (pod, id) = (known_pod(k)?, id_of(k, "count")?);
    let forward = async |node: &Node| {
        let container = pod.handle(node).container("count", id.clone());
        container.sh(SERVE).await.map_err(internal)?;
        echo(node, &pod.id).await.map_err(internal)
    };
    k.step("PortForward", Flux::Nothing, forward).await
}

/// What is sent to the port of a pod comes back.
async fn echo(node: &Node, pod: &str) -> Result<()> {
    let forward = node.crictl_forward(&[pod, ":8080"]).await?;
    let mut stream = TcpStream::connect(forward.address).await?;
    stream.write_all(INPUT.as_bytes()).await?;
    let mut answer = vec![0; INPUT.len()];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == INPUT.as_bytes(), "{answer:?}");
    Ok(())
}
