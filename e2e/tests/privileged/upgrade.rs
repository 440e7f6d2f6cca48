//! A new daemon takes over from an old one while clients are in containers: their streams end, for the
//! daemon is one end of them, and nothing else does.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::ContainerState;
use crisp_e2e::{Container, Node, Process, edit_record, sh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

/// How the old daemon ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Told,
}

/// Reads lines and tells of each, for ever.
const READER: &str = "while read -r line; do echo got $line; done";

/// Says that it is there, and goes on when it may.
const COMMAND: &str =
    "echo begun; until [ -e /tmp/go ]; do sleep 0.05; done; echo written > /tmp/result; exit 5";

async fn take_over(end: End) -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("taken-over", |_| ()).await?;
    let reader = pod.start("reader", |config| {
        config.command = sh(READER);
        config.stdin = true;
    });
    let reader = reader.await?;
    let process = reader.process().await?;
    let mut attached = attach(&node, &reader, "before").await?;
    let mut command = node.start_crictl(&["exec", &reader.id, "sh", "-c", COMMAND])?;
    let stdout = command.stdout.as_mut().context("its output is a pipe")?;
    stdout.read_exact(&mut [0; "begun\n".len()]).await?;
    let executed = child_of(&process, &reader)?;

    match end {
        End::Killed => node.kill()?,
        End::Told => node.terminate().await?,
    }
    node.restart().await?;

    for client in [&mut attached, &mut command] {
        until("the client's stream ends", async || {
            client.try_wait().ok()?
        })
        .await?;
    }
    ensure!(reader.process().await? == process && process.runs());
    ensure!(executed.runs(), "the command in the container has ended");
    reader.sh("touch /tmp/go").await?;
    until("the command goes on to its end", async || {
        let result = reader.sh("cat /tmp/result").await.ok()?;
        (result == "written" && !executed.runs()).then_some(())
    })
    .await?;

    attach(&node, &reader, "after").await?;
    let status = reader.status().await?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "{status:?}"
    );
    ensure!(
        status
            .metadata
            .is_some_and(|metadata| metadata.attempt == 0)
    );
    reader.stop(0).await?;
    ensure!(reader.status().await?.exit_code == 137);
    node.finish().await
}

/// Attaches a client, and waits until what it sends has come.
async fn attach(node: &Node, reader: &Container<'_>, word: &str) -> Result<Child> {
    let mut crictl = node.start_crictl(&["attach", "-i", &reader.id])?;
    let stdin = crictl.stdin.as_mut().context("its input is a pipe")?;
    stdin.write_all(format!("{word}\n").as_bytes()).await?;
    reader.wait_log(&format!("got {word}")).await?;
    Ok(crictl)
}

/// The process that was executed in a container: the shim's child in the container's cgroup that is not
/// its first process.
fn child_of(first: &Process, container: &Container<'_>) -> Result<Process> {
    let mut others = first.parent()?.children();
    others.retain(|process| process != first && process.command_line().contains("/tmp/go"));
    let [executed] = others.as_slice() else {
        anyhow::bail!("executed in {}: {others:?}", container.id);
    };
    Ok(*executed)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_killed_daemon_ends_streams_and_not_what_runs_in_containers() -> Result<()> {
    take_over(End::Killed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_daemon_that_is_told_to_end_does_not_wait_for_streams() -> Result<()> {
    take_over(End::Told).await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pods_of_a_newer_release_are_left_to_it() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("newer", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let process = container.process().await?;
    let record = node.container_record(&pod.id, &container.id);
    node.terminate().await?;
    edit_record(&record, |record| record["version"] = 1000.into())?;
    let refused = node.restart().await.err().context("it started")?;
    ensure!(
        format!("{refused:#}").contains("was written by a newer crisp"),
        "{refused:#}"
    );
    ensure!(process.runs(), "what the newer one has started was ended");
    edit_record(&record, |record| record["version"] = 1.into())?;
    node.restart().await?;
    ensure!(container.process().await? == process);
    node.finish().await
}
