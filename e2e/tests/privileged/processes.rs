//! Processes of a pod: who reaps them, who ends them, and what starting them can fail with.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerState, NamespaceMode, PodSandboxState, Signal};
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{
    Container, Entry, Image, Layer, Node, Pod, Process, Registry, eventually, image_spec, pid_mode,
    sh, until,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_orphans_in_a_shared_pid_namespace_are_reaped() -> Result<()> {
    let node = Node::start().await?;
    let pod = node
        .run_pod("orphans", pid_mode(NamespaceMode::Pod))
        .await?;
    // Each inner shell ends at once and leaves its child to the namespace's PID 1.
    let script = "for i in $(seq 20); do sh -c 'sleep 0.1 &'; done; exec sleep 1000000";
    let first = pod
        .start("first", |config| config.command = sh(script))
        .await?;
    let second = pod.start("second", |_| ()).await?;
    until("both see all processes", async || {
        let listing = second.sh("ps -o args").await.ok()?;
        let sleeping = listing.lines().filter(|args| *args == "sleep 1000000");
        (sleeping.count() == 2).then_some(())
    })
    .await?;
    ensure!(first.process().await?.namespace("pid")? == second.process().await?.namespace("pid")?);
    until("all orphans are gone, none as a zombie", async || {
        let listing = second.sh("ps -o stat,args").await.ok()?;
        let gone =
            !listing.contains("sleep 0.1") && !listing.lines().any(|line| line.starts_with('Z'));
        gone.then_some(())
    })
    .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_execs_leave_no_zombie_on_the_host() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("execs", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    for _ in 0..10 {
        // The orphan of an exec'd process belongs to the container's PID 1; the exec itself to the shim.
        container.sh("true").await?;
    }
    let init = container.process().await?;
    let shim = init
        .status("PPid")
        .and_then(|pid| pid.parse().ok())
        .map(Process)
        .context("no parent")?;
    eventually("the shim has no zombie", || {
        shim.children().iter().all(|child| {
            child
                .status("State")
                .is_none_or(|state| !state.starts_with('Z'))
        })
    })
    .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_first_process_takes_its_pid_namespace_along() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("family", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("sleep 7650101 & sleep 7650101 & sleep 0.3; exit 3")
        })
        .await?;
    let status = container.wait_exit().await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (3, "Error"),
        "{status:?}"
    );
    eventually("its children are gone", || {
        Process::with_argument("7650101").is_empty()
    })
    .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_first_process_takes_its_children_along_in_a_shared_pid_namespace() -> Result<()>
{
    let node = Node::start().await?;
    let pod = node.run_pod("family", pid_mode(NamespaceMode::Pod)).await?;
    let other = pod.start("other", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("sleep 7650102 & sleep 7650102 & sleep 0.3; exit 4")
        })
        .await?;
    ensure!(container.wait_exit().await?.exit_code == 4);
    eventually("its children are gone", || {
        Process::with_argument("7650102").is_empty()
    })
    .await?;
    ensure!(other.sh("echo alive").await? == "alive");
    node.finish().await
}

/// A shell that tells which signal it got, and exits with 5.
const TRAPS: &str = "for s in TERM USR1 USR2 QUIT; do trap \"echo got $s; exit 5\" $s; done; echo ready; while :; do sleep 0.02; done";

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stop_sends_the_configs_the_images_or_the_usual_signal() -> Result<()> {
    let image = Image::new(vec![busybox_layer()]).with("StopSignal", json!("SIGUSR1"));
    Registry::shared().publish("test/stop-signal", "1", &image);
    let node = Node::start().await?;
    node.pull("registry.k8s.io/test/stop-signal:1").await?;
    let pod = node.run_pod("signals", |_| ()).await?;
    let cases = [
        (
            "usual",
            None,
            Signal::RuntimeDefault,
            "TERM",
            Signal::Sigterm,
        ),
        (
            "image",
            Some("registry.k8s.io/test/stop-signal:1"),
            Signal::RuntimeDefault,
            "USR1",
            Signal::Sigusr1,
        ),
        (
            "config",
            Some("registry.k8s.io/test/stop-signal:1"),
            Signal::Sigusr2,
            "USR2",
            Signal::Sigusr2,
        ),
    ];
    for (name, image, asked, got, reported) in cases {
        let container = pod
            .start(name, |config| {
                config.command = sh(TRAPS);
                config.stop_signal = asked.into();
                if let Some(image) = image {
                    config.image = Some(image_spec(image));
                }
            })
            .await?;
        container.wait_log("ready").await?;
        ensure!(
            container.status().await?.stop_signal() == reported,
            "{name}: {:?}",
            container.status().await?
        );
        container.stop(30).await?;
        let status = container.status().await?;
        ensure!(status.exit_code == 5, "{name}: {status:?}");
        container.wait_log(&format!("got {got}")).await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_that_ignores_sigterm_is_killed_after_the_timeout() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("stubborn", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("trap 'echo no' TERM; echo ready; while :; do sleep 0.02; done")
        })
        .await?;
    container.wait_log("ready").await?;
    container.stop(1).await?;
    container.wait_log("no").await?;
    let status = container.status().await?;
    ensure!(
        status.state() == ContainerState::ContainerExited && status.exit_code == 137,
        "{status:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_shorter_of_two_stops_wins() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("impatient", |_| ()).await?;
    // As PID 1 without a handler, sleep ignores SIGTERM.
    let container = pod.start("main", |_| ()).await?;
    let (long, short) = tokio::join!(container.stop(3600), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        container.stop(1).await
    });
    long?;
    short?;
    ensure!(container.status().await?.exit_code == 137);
    node.finish().await
}

/// The header of a program for a processor that this is not.
fn foreign_program() -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "s390x") { 62 } else { 22 };
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16..18].copy_from_slice(&2u16.to_le_bytes());
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_start_that_fails_tells_the_path_and_leaves_start_error() -> Result<()> {
    let broken = Layer::new([
        Entry::program("bin/foreign", foreign_program()),
        Entry::program("bin/lost", "#!/no/interpreter\n"),
        Entry::file("bin/unexecutable", "#!/bin/sh\n"),
    ]);
    Registry::shared().publish(
        "test/unstartable",
        "1",
        &Image::new(vec![busybox_layer(), broken.gzip()]),
    );
    let node = Node::start().await?;
    node.pull("registry.k8s.io/test/unstartable:1").await?;
    let pod = node.run_pod("failing", |_| ()).await?;
    let cases = [
        ("missing", "/no/such/binary", "/", "/no/such/binary"),
        ("not-in-path", "no-such-command", "/", "no-such-command"),
        (
            "unexecutable",
            "/bin/unexecutable",
            "/",
            "/bin/unexecutable",
        ),
        ("directory", "/etc", "/", "/etc"),
        ("foreign", "/bin/foreign", "/", "/bin/foreign"),
        ("interpreter", "/bin/lost", "/", "/bin/lost"),
        ("bad-directory", "/bin/true", "/etc/passwd", "/etc/passwd"),
    ];
    for (name, command, directory, path) in cases {
        let container = pod
            .create(name, |config| {
                config.image = Some(image_spec("registry.k8s.io/test/unstartable:1"));
                config.command = vec![command.to_owned()];
                config.working_dir = directory.to_owned();
            })
            .await?;
        let error = container
            .start()
            .await
            .err()
            .with_context(|| format!("{name} started"))?;
        ensure!(error.message().contains(path), "{name}: {error}");
        let status = container.status().await?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "{name}: {status:?}"
        );
        ensure!(
            (status.exit_code, status.reason.as_str()) == (128, "StartError"),
            "{name}: {status:?}"
        );
        ensure!(status.message.contains(path), "{name}: {status:?}");
        container.remove().await?;
    }
    // The pod is none the worse for it.
    ensure!(pod.start("fine", |_| ()).await?.sh("echo fine").await? == "fine");
    node.finish().await
}

/// The shim of a container's pod, and its other children: pause.
async fn shim_and_pause(container: &Container<'_>) -> Result<(Process, Vec<Process>)> {
    let init = container.process().await?;
    let shim = init.status("PPid").and_then(|pid| pid.parse().ok());
    let shim = Process(shim.context("no parent")?);
    let others = shim.children().into_iter().filter(|child| *child != init);
    Ok((shim, others.collect()))
}

fn kill(process: Process) -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    Ok(kill(
        nix::unistd::Pid::from_raw(process.0),
        Signal::SIGKILL,
    )?)
}

async fn await_not_ready(pod: &Pod<'_>) -> Result<()> {
    until("the pod is not ready", async || {
        let status = pod.status().await.ok()?;
        (status.state() == PodSandboxState::SandboxNotready).then_some(())
    })
    .await
}

/// By its cgroup cAdvisor finds the pod.
#[tokio::test(flavor = "multi_thread")]
async fn privileged_pause_has_a_cgroup_of_its_own_where_somebody_looks() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pause", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let (_, pause) = shim_and_pause(&container).await?;
    for controller in ["cpu", "cpuacct", "pids", "memory", "cpuset"] {
        let (of_pause, of_container) = (
            pause[0].cgroup(controller)?,
            container.cgroup(controller).await?,
        );
        let unified = of_pause.0.join("cgroup.controllers").exists();
        let expected = match controller {
            "cpu" | "cpuacct" => of_container.parent().0.join(&pod.id),
            _ if unified => of_container.parent().0.join(&pod.id),
            _ => of_container.parent().0,
        };
        ensure!(of_pause.0 == expected, "{controller}: {of_pause:?}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_pause_is_killed_is_not_ready_and_can_be_removed() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("headless", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let (_, pause) = shim_and_pause(&container).await?;
    ensure!(pause.len() == 1, "{pause:?}");
    kill(pause[0])?;
    await_not_ready(&pod).await?;
    pod.stop().await?;
    ensure!(container.status().await?.state() == ContainerState::ContainerExited);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_whose_shim_is_killed_is_not_ready_and_leaves_no_trace() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("orphaned", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let init = container.process().await?;
    let (shim, _) = shim_and_pause(&container).await?;
    kill(shim)?;
    await_not_ready(&pod).await?;
    pod.stop().await?;
    ensure!(!init.runs(), "the container's process outlived its pod");
    // How it ended nobody can know.
    let status = container.status().await?;
    ensure!(
        status.state() == ContainerState::ContainerExited,
        "{status:?}"
    );
    ensure!(
        status.exit_code == 255 || status.exit_code == 137,
        "{status:?}"
    );
    // The name is free for the pod that takes its place.
    pod.remove().await?;
    node.run_pod("orphaned", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_killed_from_outside_has_exited_by_the_signal() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("victim", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    kill(container.process().await?)?;
    let status = container.wait_exit().await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (137, "Error"),
        "{status:?}"
    );
    node.finish().await
}
