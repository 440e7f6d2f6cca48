//! The daemon dies by SIGKILL: containers do not notice, and a new daemon knows them all.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerConfig, ContainerState, Mount, PodSandboxState};
use crisp_e2e::tools::program;
use crisp_e2e::{Container, Node, Pod, edit_record, eventually, sh, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

const COUNT: &str = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";

/// The numbers that a counting container has logged.
fn counted(container: &Container<'_>) -> Result<Vec<u64>> {
    container
        .log()?
        .iter()
        .map(|line| Ok(line.text.parse()?))
        .collect()
}

async fn wait_for_more(container: &Container<'_>) -> Result<()> {
    let before = counted(container)?.len();
    until("the container counts on", async || {
        (counted(container).ok()?.len() > before + 5).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_killed_daemon_leaves_containers_and_logs_going() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("counting", |_| ()).await?;
    let container = pod
        .start("count", |config| config.command = sh(COUNT))
        .await?;
    container.wait_log("3").await?;
    let (process, status) = (container.process().await?, container.status().await?);

    node.kill()?;
    wait_for_more(&container).await?;
    ensure!(process.runs());
    node.restart().await?;

    let again = container.status().await?;
    ensure!(
        again.state() == ContainerState::ContainerRunning,
        "{again:?}"
    );
    ensure!((again.started_at, again.log_path) == (status.started_at, status.log_path));
    ensure!(container.process().await? == process);
    ensure!(container.sh("echo still here").await? == "still here");
    wait_for_more(&container).await?;
    let numbers = counted(&container)?;
    let expected: Vec<u64> = (0..numbers.len() as u64).collect();
    ensure!(
        numbers == expected,
        "lines are lost or doubled: {numbers:?}"
    );

    container.stop(0).await?;
    ensure!(container.status().await?.exit_code == 137);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exit_while_the_daemon_is_dead_is_known_after_restart() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("ending", |_| ()).await?;
    let scratch = node.scratch()?;
    let container = pod
        .start("end", |config| {
            config.command = sh("until [ -e /host/go ]; do sleep 0.02; done; echo ending; exit 7");
            config.mounts.push(Mount {
                container_path: "/host".to_owned(),
                host_path: scratch.display().to_string(),
                ..Mount::default()
            });
        })
        .await?;
    let process = container.process().await?;

    node.kill()?;
    fs::write(scratch.join("go"), "")?;
    eventually("the container ends", || !process.runs()).await?;
    node.restart().await?;

    let status = container.wait_exit().await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (7, "Error"),
        "{status:?}"
    );
    ensure!(
        status.finished_at >= status.started_at && status.started_at > 0,
        "{status:?}"
    );
    ensure!(container.log()?.iter().any(|line| line.text == "ending"));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_restart_finds_every_pod_and_container_again() -> Result<()> {
    let node = Node::start().await?;
    let ready = node.run_pod("ready", |_| ()).await?;
    let stopped = node.run_pod("stopped", |_| ()).await?;
    let created = ready.create("created", |_| ()).await?;
    let running = ready.start("running", |_| ()).await?;
    let exited = ready
        .start("exited", |config| config.command = sh("exit 3"))
        .await?;
    exited.wait_exit().await?;
    stopped.stop().await?;

    node.kill()?;
    node.restart().await?;

    let pods: BTreeSet<_> = node
        .pods()
        .await?
        .into_iter()
        .map(|pod| (pod.id.clone(), pod.state))
        .collect();
    let expected = BTreeSet::from([
        (ready.id.clone(), PodSandboxState::SandboxReady.into()),
        (stopped.id.clone(), PodSandboxState::SandboxNotready.into()),
    ]);
    ensure!(pods == expected, "{pods:?}");
    let containers: BTreeSet<_> = node
        .containers()
        .await?
        .into_iter()
        .map(|it| (it.id.clone(), it.state))
        .collect();
    let expected = BTreeSet::from([
        (created.id.clone(), ContainerState::ContainerCreated.into()),
        (running.id.clone(), ContainerState::ContainerRunning.into()),
        (exited.id.clone(), ContainerState::ContainerExited.into()),
    ]);
    ensure!(containers == expected, "{containers:?}");
    ensure!(exited.status().await?.exit_code == 3);

    // What was made before the restart can be used after it.
    created.start().await?;
    ensure!(created.sh("echo started").await? == "started");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_that_was_not_made_to_its_end_is_made_anew_after_restart() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node.run_pod("half-made", |_| ()).await?;
    let whole = pod.create("whole", |_| ()).await?;
    let half = pod.create("half", |_| ()).await?;

    node.kill()?;
    // As when the daemon had died before this, which it makes last.
    let bundle = node
        .run_dir()
        .join("pods")
        .join(&pod.id)
        .join("containers")
        .join(&half.id);
    fs::remove_file(bundle.join("config.json"))?;
    node.restart().await?;

    for (name, before) in [("whole", &whole), ("half", &half)] {
        let again = pod.create(name, |_| ()).await?;
        ensure!(
            (again.id == before.id) == (name == "whole"),
            "{name} is {}",
            again.id
        );
        again.start().await?;
        ensure!(again.sh("echo it runs").await? == "it runs");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stop_of_a_pod_goes_on_after_restart_and_tells_how_containers_end() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node.run_pod("stopping", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;

    node.kill()?;
    // As when the daemon had died after this, which is the first thing that a stop does.
    let record = node.pod_record(&pod.id);
    let text = fs::read_to_string(&record)?;
    let stopped = text.replace(r#""state":"Ready""#, r#""state":"NotReady""#);
    ensure!(stopped != text, "{text}");
    fs::write(&record, stopped)?;
    node.restart().await?;

    let status = container.status().await?;
    ensure!(status.exit_code == 137, "{status:?}");
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    ensure!(!pod.netns().exists());
    node.finish().await
}

/// A container whose record is longer than what is written over in one step.
fn with_long_record(config: &mut ContainerConfig) {
    config.command = sh("exit 7");
    let annotation = "x".repeat(4096);
    config.annotations.insert("long".to_owned(), annotation);
}

/// Runs such a container to its end while the daemon fails to write its record, as on a full disk. It does until
/// what is returned is removed, whose name is that of the file that is written first.
async fn run_unrecorded(node: &Node, pod: &Pod<'_>, container: &Container<'_>) -> Result<PathBuf> {
    let record = node.container_record(&pod.id, &container.id);
    let blocker = record.with_extension("new");
    fs::create_dir(&blocker)?;
    container.start().await?;
    container.wait_exit().await?;
    let text = fs::read_to_string(&record)?;
    ensure!(text.contains(r#""state":"Created""#), "{text}");
    Ok(blocker)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exit_that_could_not_be_recorded_is_known_after_the_stop_of_the_pod()
-> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("unrecorded", |_| ()).await?;
    let container = pod.create("main", with_long_record).await?;
    let blocker = run_unrecorded(&node, &pod, &container).await?;
    fs::remove_dir(blocker)?;
    pod.stop().await?;
    node.kill()?;
    node.restart().await?;
    let status = container.status().await?;
    ensure!(status.exit_code == 7 && status.started_at > 0, "{status:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exit_that_could_not_be_recorded_is_known_after_the_death_of_the_shim()
-> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("unrecorded", |_| ()).await?;
    let container = pod.create("main", with_long_record).await?;
    let blocker = run_unrecorded(&node, &pod, &container).await?;
    node.kill()?;
    kill(Pid::from_raw(node.shim(&pod.id)?.0), Signal::SIGKILL)?;
    fs::remove_dir(blocker)?;
    node.restart().await?;
    let status = container.status().await?;
    ensure!(status.exit_code == 7, "{status:?}");
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxNotready);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_start_that_failed_unseen_fails_again_by_the_same_cause() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("absent", |_| ()).await?;
    let container = pod.create("main", |config| config.command = vec!["/absent".to_owned()]);
    let container = container.await?;
    ensure!(container.start().await.is_err());
    node.kill()?;
    // As when the daemon had died before the shim answered.
    edit_record(&node.container_record(&pod.id, &container.id), |record| {
        record["state"] = "Created".into();
    })?;
    node.restart().await?;
    let again = container.start().await.err().context("it was started")?;
    ensure!(again.message().contains("/absent"), "{again}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_restart_neither_loses_nor_doubles_an_address() -> Result<()> {
    let node = Node::start().await?;
    let mut pods = Vec::new();
    let mut addresses = Vec::new();
    for index in 0..3 {
        let pod = node.run_pod(&format!("before-{index}"), |_| ()).await?;
        addresses.extend(pod.addresses().await?);
        pods.push(pod);
    }
    node.run_pod("gone", |_| ()).await?.stop().await?;

    node.kill()?;
    node.restart().await?;

    let mut again = Vec::new();
    for pod in &pods {
        again.extend(pod.addresses().await?);
    }
    ensure!(again == addresses, "{addresses:?} became {again:?}");
    for index in 0..4 {
        addresses.extend(
            node.run_pod(&format!("after-{index}"), |_| ())
                .await?
                .addresses()
                .await?,
        );
    }
    let different: BTreeSet<_> = addresses.iter().collect();
    ensure!(
        (addresses.len(), different.len()) == (14, 14),
        "an address is used twice: {addresses:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stop_and_remove_can_be_repeated() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("repeated", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    for _ in 0..2 {
        container.stop(0).await?;
    }
    node.kill()?;
    node.restart().await?;
    container.stop(0).await?;
    for _ in 0..2 {
        container.remove().await?;
    }
    for _ in 0..2 {
        pod.stop().await?;
    }
    for _ in 0..2 {
        pod.remove().await?;
    }
    pod.stop().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_daemon_killed_while_pods_are_made_leaves_nothing_behind() -> Result<()> {
    let node = Node::start().await?;
    for round in 0..4 {
        let names: Vec<String> = (0..4)
            .map(|index| format!("round-{round}-{index}"))
            .collect();
        let start = |index: usize| node.run_pod(&names[index], |_| ());
        let all = async { tokio::join!(start(0), start(1), start(2), start(3)) };
        // Each round the daemon dies at another point of the work.
        let _ = tokio::time::timeout(Duration::from_millis(2 + 3 * round), all).await;
        node.kill()?;
        node.restart().await?;
        // A retry with the same names must not fail for ever.
        for name in &names {
            node.run_pod(name, |_| ()).await?;
        }
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_daemon_waits_for_a_dead_ones_child_to_let_go_of_the_lock() -> Result<()> {
    let node = Node::start().await?;
    let path = node.run_dir().join("daemon.lock");
    node.kill()?;
    // As such a child does until it executes its program.
    let lock = File::open(&path)?;
    lock.lock()?;
    let let_go = async {
        until("the next daemon has come to the lock", async || {
            let pid = node.daemon_pid()?;
            let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
            let is_lock = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to == path);
            open.any(is_lock).then_some(())
        })
        .await?;
        // It finds the lock taken before, or after, this; but it starts.
        tokio::time::sleep(Duration::from_millis(50)).await;
        lock.unlock()?;
        anyhow::Ok(())
    };
    tokio::try_join!(node.restart(), let_go)?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_second_daemon_on_the_same_directories_is_refused() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let mut second = node.command(program("dist/crisp"));
    second.arg("serve").arg("--config").arg(node.config_path());
    let output = second.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("another crisp uses"),
        "{output:?}"
    );
    ensure!(pod.status().await?.state() == PodSandboxState::SandboxReady);
    node.finish().await
}
