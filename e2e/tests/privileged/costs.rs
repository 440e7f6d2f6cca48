//! What the start of a pod costs, in what does not depend on how busy the machine is.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Node, Process, eventually, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What makes or changes something of the kernel's: how often threads wait, wake each other and take
/// memory depends on how busy the machine is. The question mark is for what an architecture lacks.
const COUNTED: &str = "trace=clone,clone3,?vfork,execve,execveat,unshare,setns,mount,umount2,fsopen,\
    fsconfig,fsmount,move_mount,open_tree,mount_setattr,pivot_root,?open,openat,openat2,?mkdir,mkdirat,\
    ?rename,?renameat,renameat2,?unlink,unlinkat,prctl,capset";

/// Of daemon, shim, pause and the container, with ten hierarchies of cgroups: as many as there were when
/// this was written, and a tenth more.
const SYSTEM_CALLS_MAX: u64 = 418;
/// Fewer cannot make a pod and a container: the counter would be at fault.
const SYSTEM_CALLS_MIN: u64 = 100;

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
            "-U",
            "calls,name",
            "-q",
            "-e",
            COUNTED,
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
        self.end()?;
        let summary = fs::read_to_string(&self.summary)?;
        let total = summary.lines().find_map(|line| line.strip_suffix(" total"));
        let calls = total.with_context(|| format!("no total:\n{summary}"))?;
        Ok(calls.trim().parse()?)
    }

    fn end(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.strace.id().try_into()?), Signal::SIGINT)?;
        self.strace.wait()?;
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        if matches!(self.strace.try_wait(), Ok(None)) {
            let _ = self.end();
        }
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
    let usual = SYSTEM_CALLS_MIN..=SYSTEM_CALLS_MAX;
    ensure!(usual.contains(&calls), "{calls} system calls");
    node.finish().await
}

/// Else overlayfs copies directories of the image there, for each container anew.
#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_that_starts_writes_nothing_into_its_own_layer() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("untouched", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    container
        .sh("test -s /etc/hosts && test -s /etc/resolv.conf")
        .await?;
    let layers = node.root_dir().join("containers").join(&container.id);
    let made = leftovers::files(&layers.join("fs"));
    ensure!(made.is_empty(), "{made:?}");
    node.finish().await
}
