//! `crictl logs`: which lines of a log are printed.

use super::line;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::ContainerMetadata;
use crisp_e2e::{Node, sh};
use tokio::io::AsyncReadExt;

async fn logs(node: &Node, options: &[&str], container: &str) -> Result<Vec<String>> {
    let arguments = [&["logs"], options, &[container]].concat();
    let printed = node.crictl(&arguments).await?.stdout;
    Ok(printed.lines().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_logs_prints_the_lines_that_are_asked_for() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("echo one; echo two; echo three; echo wrong >&2; sleep 1000000")
        })
        .await?;
    container.wait_log("wrong").await?;
    container.wait_log("three").await?;
    let id = container.id.as_str();
    let stdout = ["one", "two", "three"];
    ensure!(logs(&node, &["--stream=stdout"], id).await? == stdout);
    let printed = node.crictl(&["logs", "--stream=stderr", id]).await?;
    ensure!(printed.stdout.is_empty() && printed.stderr.contains("wrong"));
    let tail = node.crictl(&["logs", "--tail=2", id]).await?;
    let complaints = tail.stderr.lines().filter(|line| *line == "wrong");
    ensure!(
        tail.stdout.lines().count() + complaints.count() == 2,
        "{tail:?}"
    );
    ensure!(logs(&node, &["--since=1h", "--stream=stdout"], id).await? == stdout);
    let future = ["--since=2999-01-01T00:00:00Z"];
    ensure!(logs(&node, &future, id).await?.is_empty());
    let limited = node
        .crictl(&["logs", "--limit-bytes=5", "--stream=stdout", id])
        .await?;
    ensure!(limited.stdout == "one\nt", "{limited:?}");
    let stamped = logs(&node, &["--timestamps", "--stream=stdout"], id).await?;
    let first = stamped.first().context("no line")?;
    let (time, text) = first.split_once(' ').context("no time")?;
    ensure!(text == "one" && time.contains('T'), "{first}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_logs_follows_over_a_reopening_to_the_end() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command =
                sh("echo early; until [ -e /tmp/go ]; do sleep 0.02; done; echo late; exit 4")
        })
        .await?;
    container.wait_log("early").await?;
    let mut crictl = node.start_crictl(&["logs", "--follow", &container.id])?;
    let mut stdout = crictl.stdout.take().context("its output is a pipe")?;
    let mut first = [0; 6];
    stdout.read_exact(&mut first).await?;
    ensure!(&first == b"early\n");
    let rotated = container.log_path().with_extension("log.1");
    std::fs::rename(container.log_path(), rotated)?;
    node.crictl(&["logs", "--reopen", &container.id]).await?;
    container.let_go("/tmp/go").await?;
    let mut rest = String::new();
    // The end of the log is the end of what follows it.
    tokio::time::timeout(
        std::time::Duration::from_secs(60),
        stdout.read_to_string(&mut rest),
    )
    .await??;
    ensure!(rest == "late\n", "{rest:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_logs_of_the_previous_container_are_found() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let mut containers = Vec::new();
    for attempt in 0..2 {
        let container = pod
            .start("main", |config| {
                config.metadata = Some(ContainerMetadata {
                    name: "main".to_owned(),
                    attempt,
                });
                config.command = sh(&format!("echo attempt {attempt}"));
                config.log_path = format!("main/{attempt}.log");
                // By which crictl finds the containers of one pod.
                for (key, value) in [
                    ("io.kubernetes.pod.name", "logs"),
                    ("io.kubernetes.pod.namespace", "default"),
                    ("io.kubernetes.pod.uid", "uid-of-logs"),
                    ("io.kubernetes.container.name", "main"),
                ] {
                    config.labels.insert(key.to_owned(), value.to_owned());
                }
            })
            .await?;
        container.wait_exit().await?;
        containers.push(container);
    }
    let printed = logs(&node, &["--previous"], &containers[1].id).await?;
    ensure!(printed == ["attempt 0"], "{printed:?}");
    ensure!(line(&node, &["logs", &containers[1].id]).await? == "attempt 1");
    node.finish().await
}
