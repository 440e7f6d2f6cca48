//! Containers that may trace any process they see.

use anyhow::{Result, ensure};
use crisp_cri_api::v1::{Capability, NamespaceMode};
use crisp_e2e::{Container, Node, Pod, pid_mode, security, sh};
use std::fs;

/// Each is in sight for no longer than it takes to look at it once.
const COMMANDS: usize = 100;
const STARTS: usize = 20;

/// A container that looks for a file of the host at the directories of every process in sight, which
/// `CAP_SYS_PTRACE` lets it reach.
async fn start_tracer<'a>(node: &Node, pod: &Pod<'a>) -> Result<Container<'a>> {
    let on_the_host = node.scratch()?.join("on-the-host");
    fs::write(&on_the_host, "")?;
    let look = format!(
        "echo ready; while :; do for process in /proc/[1-9]*; do \
         [ -e $process/root{0} -o -e $process/cwd{0} ] && echo seen; done; done",
        on_the_host.display()
    );
    let tracer = pod.start("tracer", |config| {
        config.command = sh(&look);
        security(config).capabilities = Some(Capability {
            add_capabilities: vec!["SYS_PTRACE".to_owned()],
            ..Capability::default()
        });
    });
    let tracer = tracer.await?;
    tracer.wait_log("ready").await?;
    Ok(tracer)
}

fn ensure_blind(tracer: &Container<'_>) -> Result<()> {
    let log = tracer.log()?;
    let seen = log.iter().filter(|line| line.text == "seen").count();
    ensure!(seen == 0, "the host was seen {seen} times");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_shows_a_container_that_may_trace_it_nothing_of_the_host() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("traced", |_| ()).await?;
    let tracer = start_tracer(&node, &pod).await?;
    for _ in 0..COMMANDS {
        ensure!(tracer.sh("echo fine").await? == "fine");
    }
    ensure_blind(&tracer)?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_start_shows_a_container_that_may_trace_it_nothing_of_the_host() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("traced", pid_mode(NamespaceMode::Pod)).await?;
    let tracer = start_tracer(&node, &pod).await?;
    for number in 0..STARTS {
        let started = pod.start(&format!("started-{number}"), |_| ()).await?;
        started.stop(0).await?;
        started.remove().await?;
    }
    ensure_blind(&tracer)?;
    node.finish().await
}
