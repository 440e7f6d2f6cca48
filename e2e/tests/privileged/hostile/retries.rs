//! Clients that lose patience and ask again: they get what their first request has made.

use super::mounts::mounting;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerConfig, ContainerState, PullImageRequest};
use crisp_e2e::catalog::NGINX;
use crisp_e2e::{Fuse, Node, eventually, image_spec, sh, until};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::{Code, Request};

/// Passes on what the plugin before it answered, once it is let go on.
const SLOW: &str = r#"
config=$(cat)
[ $CNI_COMMAND = ADD ] || exit 0
echo $CNI_CONTAINERID >>asked
until [ -e go ]; do sleep 0.05; done
echo "$config" | sed 's/.*"prevResult":\(.*}\),"type".*/\1/'"#;

/// Less than what is asked for takes.
const IMPATIENCE: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_that_is_asked_for_again_is_the_first_one() -> Result<()> {
    let node = Node::start().await?;
    node.cni_plugin("slow", SLOW)?;
    node.configure_cni(&node.cni_network(&[json!({"type": "slow"})]))?;
    let asked = node.scratch()?.join("asked");
    for _ in 0..3 {
        let given_up = tokio::time::timeout(IMPATIENCE, node.run_pod("pod", |_| ()));
        ensure!(given_up.await.is_err(), "it did not take long");
    }
    eventually("the plugin is asked", || asked.exists()).await?;
    ensure!(
        node.pods().await?.is_empty(),
        "a pod that is being made is listed"
    );
    std::fs::write(node.scratch()?.join("go"), "")?;
    let pod = node.run_pod("pod", |_| ()).await?;
    ensure!(std::fs::read_to_string(asked)? == format!("{}\n", pod.id));
    let again = node.run_pod("pod", |_| ()).await?;
    ensure!(again.id == pod.id && node.pods().await?.len() == 1);
    // Another configuration is another pod, which has no right to the name.
    let other = node.run_pod("pod", |config| config.hostname = "other".to_owned());
    let refused = other.await.err().context("the name was taken twice")?;
    ensure!(refused.code() == Code::AlreadyExists, "{refused}");
    pod.start("main", |_| ()).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_that_is_asked_for_again_is_the_first_one() -> Result<()> {
    let node = Node::start().await?;
    let slow = Fuse::mount(&node.scratch()?.join("slow"))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let with_mount = mounting(&slow.dir().join("dir"));
    slow.hang();
    for _ in 0..3 {
        let given_up = tokio::time::timeout(IMPATIENCE, pod.create("main", &with_mount));
        ensure!(given_up.await.is_err(), "it did not take long");
    }
    slow.recover();
    let container = pod.create("main", &with_mount).await?;
    let again = pod.create("main", &with_mount).await?;
    ensure!(again.id == container.id && node.containers().await?.len() == 1);
    let refused = pod.create("main", |config| config.tty = true).await.err();
    let refused = refused.context("the name was taken twice")?;
    ensure!(refused.code() == Code::AlreadyExists, "{refused}");
    container.start().await?;
    ensure!(container.sh("cat /proc/1/cmdline").await?.contains("sleep"));
    drop(slow);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_starts_that_a_dead_daemon_has_asked_for_are_known_to_the_next() -> Result<()> {
    let node = Node::start().await?;
    let slow = Fuse::mount(&node.scratch()?.join("slow"))?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let ending = |config: &mut ContainerConfig| {
        mounting(&slow.dir().join("dir"))(config);
        config.command = sh("exit 48");
    };
    let short = pod.create("short", ending).await?;
    let long = pod
        .create("long", mounting(&slow.dir().join("dir")))
        .await?;
    slow.hang();
    let (one, other) = tokio::join!(
        tokio::time::timeout(IMPATIENCE, short.start()),
        tokio::time::timeout(IMPATIENCE, long.start())
    );
    ensure!(one.is_err() && other.is_err(), "it did not take long");
    node.kill()?;
    node.restart().await?;
    ensure!(long.status().await?.state() == ContainerState::ContainerCreated);
    slow.recover();
    let status = short.wait_exit().await?;
    ensure!(status.exit_code == 48, "{status:?}");
    ensure!(
        0 < status.started_at && status.started_at <= status.finished_at,
        "{status:?}"
    );
    until("it is known to run", async || {
        let status = long.status().await.ok()?;
        (status.state() == ContainerState::ContainerRunning).then_some(())
    })
    .await?;
    ensure!(long.sh("echo alive").await? == "alive");
    long.remove().await?;
    drop(slow);
    node.finish().await
}

/// Takes connections for another server and passes nothing on before it is let.
async fn gate(server: SocketAddr, open: watch::Receiver<bool>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut open = open.clone();
            tokio::spawn(async move {
                if open.wait_for(|open| *open).await.is_err() {
                    return;
                }
                if let Ok(mut server) = TcpStream::connect(server).await {
                    // Either side may go when it likes.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pull_from_a_registry_that_stalls_goes_on_for_who_asks_again() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let hosts = node.certs_dir().join("docker.io/hosts.toml");
    let text = std::fs::read_to_string(&hosts)?;
    let server = text
        .split('"')
        .nth(1)
        .and_then(|url| url.strip_prefix("http://"));
    let server = server.context("no server in hosts.toml")?;
    let (open, opened) = watch::channel(false);
    let front = gate(server.parse()?, opened).await?;
    std::fs::write(&hosts, text.replace(server, &front.to_string()))?;

    let mut request = Request::new(PullImageRequest {
        image: Some(image_spec(NGINX)),
        ..PullImageRequest::default()
    });
    request.set_timeout(IMPATIENCE);
    let late = node.images().pull_image(request).await.err();
    let late = late.context("it did not take long")?;
    ensure!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late}"
    );
    ensure!(node.image(NGINX).await?.is_none());
    open.send_replace(true);
    let id = node.pull(NGINX).await?;
    let image = node.image(NGINX).await?.context("it is not here")?;
    ensure!(image.id == id, "{image:?}");
    node.finish().await
}
