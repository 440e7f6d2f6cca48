//! The streaming server: encrypted, under load, left by its clients, and attacked.

mod hostile;
mod large;
mod raw;
mod tls;
mod vanish;

use anyhow::Result;
use crisp_e2e::{Container, Node, Pod, Process, sh};

const TRANSPORTS: [&str; 2] = ["--transport=spdy", "--transport=websocket"];

/// A pod with a container in which a port, 7, sends back what it gets.
async fn echoing(node: &Node) -> Result<(Pod<'_>, Container<'_>)> {
    let pod = node.run_pod("streams", |_| ()).await?;
    let echo = |config: &mut crisp_cri_api::v1::ContainerConfig| {
        config.command = sh("nc -ll -p 7 -e cat");
    };
    let container = pod.start("main", echo).await?;
    let listening = async || {
        // 7 in hexadecimal, in the state LISTEN (proc_net_tcp(5)).
        let sockets = container
            .sh("cat /proc/net/tcp /proc/net/tcp6")
            .await
            .ok()?;
        (sockets.contains(":0007 ") && sockets.contains(" 0A ")).then_some(())
    };
    crisp_e2e::until("the port listens", listening).await?;
    Ok((pod, container))
}

/// The daemon, and the shim of a container's pod.
async fn servants(node: &Node, container: &Container<'_>) -> Result<[Process; 2]> {
    let daemon = node.daemon_pid().and_then(|pid| i32::try_from(pid).ok());
    let daemon = Process(anyhow::Context::context(daemon, "the daemon runs")?);
    Ok([daemon, container.process().await?.parent()?])
}
