//! What `crisp top` shows of pods, and how `crisp inspect` says what holds one back.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Cgroup, Container, Node, Pod, cgroups_are_v2, resources, sh, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;

const SPIN: &str = "while :; do :; done";

/// Waits until `crisp inspect` says this of what holds a pod or container back.
async fn held_back(node: &Node, name: &str, wanted: &str) -> Result<String> {
    let said = async || {
        let told = node.crisp(&["inspect", name]).await.ok()?.stdout;
        let mut lines = told.lines();
        lines.find(|line| line.contains(wanted)).map(str::to_owned)
    };
    until(&format!("{wanted:?} of {name}"), said).await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_inspect_says_that_a_quota_or_nothing_holds_a_pod_back() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("busy", |_| ()).await?;
    pod.start("idle", |_| ()).await?;
    let told = node.crisp(&["inspect", "default/busy"]).await?.stdout;
    ensure!(
        told.contains("held back   by nothing that is seen\n"),
        "{told}"
    );
    pod.start("spin", |config| {
        config.command = sh(SPIN);
        let resources = resources(config);
        resources.cpu_quota = 20_000;
        resources.cpu_period = 100_000;
    })
    .await?;
    let line = held_back(&node, "default/busy", "spin: throttled ").await?;
    ensure!(line.ends_with(" % of periods: quota 0.2 cpu"), "{line}");
    // The container is told of it without its name, its neighbour not at all.
    held_back(&node, "busy/spin", "held back   throttled ").await?;
    held_back(&node, "busy/idle", "by nothing that is seen").await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_inspect_says_that_forks_fail() -> Result<()> {
    let node = Node::start_with(|config| {
        config.insert("container_pids_limit".to_owned(), 8.into());
    })
    .await?;
    let pod = node.run_pod("many", |_| ()).await?;
    let many = "sh -c 'while :; do sleep 1000000 & done'; exec sleep 1000000";
    let container = pod
        .start("main", |config| config.command = sh(many))
        .await?;
    container
        .wait_log("Resource temporarily unavailable")
        .await?;
    held_back(&node, "many/main", "fork fail").await?;
    let pids = container.cgroup("pids").await?;
    let refused = pids.read_key("pids.events", "max")?;
    ensure!(refused > 0, "{refused}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_inspect_says_that_memory_is_near_its_limit() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("large", |_| ()).await?;
    pod.start("main", |config| {
        config.command = sh("dd if=/dev/zero bs=95M count=1 | sleep 1000000");
        resources(config).memory_limit_in_bytes = 100 << 20;
    })
    .await?;
    let line = held_back(&node, "large/main", ": near its limit").await?;
    ensure!(line.contains(" MiB of 100 MiB"), "{line}");
    node.finish().await
}

/// A frozen cgroup of version 1, whose processes are in D state; it thaws when this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(cgroup: &Cgroup) -> Result<Self> {
        let state = cgroup.0.join("freezer.state");
        fs::write(&state, "FROZEN").context("freezing")?;
        Ok(Self(state))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fs::write(&self.0, "THAWED").expect("a cgroup that is there can thaw");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_inspect_says_that_tasks_hang() -> Result<()> {
    if cgroups_are_v2() {
        eprintln!("skipped: who is frozen by a cgroup of version 2 is not in D state");
        return Ok(());
    }
    let node = Node::start().await?;
    let pod = node.run_pod("hangs", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let freezer = container.cgroup("freezer").await?;
    let frozen = Frozen::freeze(&freezer)?;
    held_back(&node, "hangs/main", "1 task in D state in ").await?;
    let top = node.crisp(&["top", "--once", "--sort", "blocked"]).await?;
    ensure!(top.stdout.contains("load 1 "), "{}", top.stdout);
    drop(frozen);
    node.finish().await
}

/// Runs a container once more under its name.
async fn fails_again<'a>(pod: &Pod<'a>, attempt: u32) -> Result<Container<'a>> {
    let container = pod.start("main", |config| {
        config.command = sh("exit 3");
        config.metadata.get_or_insert_default().attempt = attempt;
    });
    let container = container.await?;
    container.wait_exit().await?;
    Ok(container)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_inspect_says_that_a_container_ends_again_and_again() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("crashes", |_| ()).await?;
    let first = fails_again(&pod, 0).await?;
    for attempt in 1..3 {
        fails_again(&pod, attempt).await?;
    }
    let line = held_back(&node, "crashes", "main: restarted 2 times").await?;
    ensure!(line.contains(" with code 3 (Error)"), "{line}");
    // That is told of the last one of the name alone.
    let told = node.crisp(&["inspect", &first.id]).await?.stdout;
    ensure!(!told.contains("restarted"), "{told}");
    node.finish().await
}

/// Six that end as soon as nobody waits for them any more.
const ZOMBIES: &str = "for i in 1 2 3 4 5 6; do (until grep -q sleep /proc/1/comm; do :; done) & done; exec sleep 1000000";

#[tokio::test(flavor = "multi_thread")]
async fn privileged_inspect_and_top_tell_of_zombies() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("haunted", |_| ()).await?;
    let container = pod.start("main", |config| config.command = sh(ZOMBIES));
    container.await?;
    held_back(&node, "haunted/main", "6 zombies").await?;
    let table = node.crisp(&["top", "--once"]).await?.stdout;
    let row = cells(&table, "main")?;
    ensure!(row.get(11).is_some_and(|zombies| zombies == "6"), "{table}");
    node.finish().await
}

/// The cells of the first line that begins with this.
fn cells(table: &str, name: &str) -> Result<Vec<String>> {
    let line = table
        .lines()
        .find(|line| line.trim_start().starts_with(name));
    let line = line.with_context(|| format!("no {name} in\n{table}"))?;
    let cells = line.trim().split("  ").map(str::trim);
    let cells = cells.filter(|cell| !cell.is_empty());
    Ok(cells.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_top_shows_pods_and_containers_with_what_they_use() -> Result<()> {
    let node = Node::start().await?;
    let idle = node.run_pod("a-idle", |_| ()).await?;
    idle.start("main", |_| ()).await?;
    let busy = node.run_pod("busy", |_| ()).await?;
    busy.start("spin", |config| {
        config.command = sh(SPIN);
        let resources = resources(config);
        resources.cpu_shares = 512;
        resources.cpu_quota = 50_000;
        resources.cpu_period = 100_000;
        resources.memory_limit_in_bytes = 64 << 20;
    })
    .await?;
    let table = until("the busy pod uses a processor", async || {
        let table = node.crisp(&["top", "--once"]).await.ok()?.stdout;
        let cpus: f64 = cells(&table, "spin").ok()?.get(1)?.parse().ok()?;
        (cpus > 0.2 && cpus < 0.6).then_some(table)
    })
    .await?;
    let spin = cells(&table, "spin")?;
    ensure!(
        spin[2..4] == ["0.50", "0.50"] && spin[6] == "64 MiB",
        "{spin:?}"
    );
    // Whoever uses most is first.
    let position = |name| {
        table
            .find(name)
            .with_context(|| format!("no {name} in {table}"))
    };
    ensure!(
        position("default/busy")? < position("default/a-idle")?,
        "{table}"
    );
    let table = node.crisp(&["top", "--once", "--sort", "alphabet"]).await?;
    let table = table.stdout;
    let position = |name| {
        table
            .find(name)
            .with_context(|| format!("no {name} in {table}"))
    };
    ensure!(
        position("default/a-idle")? < position("default/busy")?,
        "{table}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_top_on_a_terminal_draws_until_it_is_left() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("shown", |_| ()).await?;
    pod.start("main", |_| ()).await?;
    let mut terminal = node.crisp_on_terminal(&["top", "--interval", "1"])?;
    terminal.resize(200, 40)?;
    terminal.wait_for("default/shown").await?;
    terminal.wait_for("; by cpu").await?;
    terminal.enter("m")?;
    terminal.wait_for("; by memory").await?;
    terminal.enter("q")?;
    ensure!(terminal.wait().await?.success());
    // The screen that was there before is shown again, with its cursor.
    terminal.wait_for("\x1b[?25h\x1b[?1049l").await?;
    node.finish().await
}

/// A process that does not answer until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: Pid) -> Result<Self> {
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).expect("a process that was stopped is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_top_is_left_while_the_daemon_does_not_answer() -> Result<()> {
    let node = Node::start().await?;
    let daemon = node.daemon_pid().context("no daemon")?;
    let mut terminal = node.crisp_on_terminal(&["top", "--interval", "1"])?;
    terminal.resize(200, 40)?;
    terminal.wait_for("; by cpu").await?;
    let stopped = Stopped::stop(Pid::from_raw(daemon.try_into()?))?;
    // A table that is asked for in vain, and then Ctrl-C.
    terminal.enter("m")?;
    terminal.enter("\x03")?;
    ensure!(terminal.wait().await?.success());
    terminal.wait_for("\x1b[?25h\x1b[?1049l").await?;
    drop(stopped);
    node.finish().await
}
