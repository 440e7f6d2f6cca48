//! Container logs in the CRI's format.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::ReopenContainerLogRequest;
use crisp_e2e::{LogLine, Node, parse_log, sh, until};

/// The text of lines that belong together, and how many they are.
fn joined(lines: &[LogLine]) -> (String, usize) {
    (
        lines.iter().map(|line| line.text.as_str()).collect(),
        lines.len(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_log_has_both_streams_in_order() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("echo one; sleep 0.1; echo two >&2; sleep 0.1; echo; echo three")
        })
        .await?;
    let status = container.wait_exit().await?;
    ensure!(
        status.log_path == container.log_path().display().to_string(),
        "{status:?}"
    );
    let log = container.log()?;
    let lines: Vec<_> = log
        .iter()
        .map(|line| (line.stream.as_str(), line.partial, line.text.as_str()))
        .collect();
    let expected = [
        ("stdout", false, "one"),
        ("stderr", false, "two"),
        ("stdout", false, ""),
        ("stdout", false, "three"),
    ];
    ensure!(lines == expected, "{lines:?}");
    ensure!(log.is_sorted_by(|a, b| a.time <= b.time), "{log:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_log_cuts_long_lines_into_partial_ones() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("head -c 40000 /dev/zero | tr '\\0' x; echo; printf unfinished")
        })
        .await?;
    container.wait_exit().await?;
    let log = container.log()?;
    let (last, long) = log.split_last().context("an empty log")?;
    ensure!(
        joined(long) == ("x".repeat(40_000), 3),
        "{} lines",
        long.len()
    );
    ensure!(long.iter().map(|line| line.partial).eq([true, true, false]));
    ensure!(last.text == "unfinished" && last.partial, "{last:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_log_of_a_terminal_is_all_stdout() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.tty = true;
            config.command =
                sh("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; echo error >&2; tty");
        })
        .await?;
    container.wait_exit().await?;
    let log = container.log()?;
    let lines: Vec<_> = log
        .iter()
        .map(|line| (line.stream.as_str(), line.text.trim_end()))
        .collect();
    ensure!(
        lines
            == [
                ("stdout", "terminal"),
                ("stdout", "error"),
                ("stdout", "/dev/console")
            ]
            || lines
                == [
                    ("stdout", "terminal"),
                    ("stdout", "error"),
                    ("stdout", "/dev/pts/0")
                ],
        "{lines:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_log_goes_on_in_a_new_file_after_reopen() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("logs", |_| ()).await?;
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let container = pod
        .start("main", |config| config.command = sh(script))
        .await?;
    container.wait_log("5").await?;
    let rotated = container.log_path().with_extension("log.1");
    std::fs::rename(container.log_path(), &rotated)?;
    let reopen = ReopenContainerLogRequest {
        container_id: container.id.clone(),
    };
    node.runtime().reopen_container_log(reopen.clone()).await?;
    ensure!(
        container.log_path().exists(),
        "the new file is there when the RPC returns"
    );
    until("the new file grows", async || {
        (container.log().ok()?.len() > 5).then_some(())
    })
    .await?;
    container.stop(0).await?;

    let mut numbers = Vec::new();
    for line in parse_log(&std::fs::read_to_string(&rotated)?)
        .into_iter()
        .chain(container.log()?)
    {
        numbers.push(line.text.parse::<u64>()?);
    }
    let expected: Vec<u64> = (0..numbers.len() as u64).collect();
    ensure!(
        numbers == expected,
        "lines are lost or doubled: {numbers:?}"
    );
    ensure!(
        node.runtime().reopen_container_log(reopen).await.is_err(),
        "reopened for an exited container"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_without_log_path_writes_none() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("quiet", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.log_path = String::new();
            // More than a pipe holds: output that nobody wants must not block.
            config.command = sh("head -c 1000000 /dev/zero; exit 6");
        })
        .await?;
    ensure!(container.wait_exit().await?.exit_code == 6);
    ensure!(std::fs::read_dir(container.log_path())?.next().is_none());
    node.finish().await
}
