//! What the start of a pod costs, in what does not depend on how busy the machine is.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Node, Process, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What threads call to wait for each other, as often as it happens.
const WAITING: &str = "trace=!futex,epoll_wait,restart_syscall,sched_yield";

/// Of daemon, shim, pause and the container until it executes, with ten hierarchies of cgroups. As many
/// as there were when this was written, and a tenth more.
const SYSTEM_CALLS_MAX: u64 = 1700;

/// strace(1) at work on a process and all that come from it.
struct Counter {
    strace: Child,
    summary: PathBuf,
}

impl Counter {
    async fn attach(process: Process, dir: &Path) -> Result<Self> {
        let summary = dir.join("system-calls");
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-c",
            "-q",
            "-e",
            WAITING,
            "-p",
            &process.0.to_string(),
            "-o",
        ]);
        let strace = strace.arg(&summary).spawn().context("strace")?;
        let traced = || process.status("TracerPid").is_some_and(|pid| pid != "0");
        eventually("strace counts", traced).await?;
        Ok(Self { strace, summary })
    }

    /// How many system calls there were.
    fn detach(mut self) -> Result<u64> {
        kill(Pid::from_raw(self.strace.id().try_into()?), Signal::SIGINT)?;
        self.strace.wait()?;
        let summary = fs::read_to_string(self.summary)?;
        let total = summary.lines().find(|line| line.ends_with(" total"));
        let total = total.with_context(|| format!("no total:\n{summary}"))?;
        let calls = total.split_whitespace().nth(3);
        Ok(calls.context("no number of calls")?.parse()?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_start_makes_few_system_calls() -> Result<()> {
    let node = Node::start().await?;
    // What is done once, for the first pod, is no pod's cost.
    node.run_pod("first", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let daemon = node.daemon_pid().context("no daemon")?;
    let counter = Counter::attach(Process(daemon.try_into()?), &node.scratch()?).await?;
    node.run_pod("counted", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let calls = counter.detach()?;
    ensure!(calls <= SYSTEM_CALLS_MAX, "{calls} system calls");
    node.finish().await
}
