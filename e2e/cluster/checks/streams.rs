//! What kubectl has with a pod by streams: logs, exec, attach, port-forward.

use super::{pod, service, web};
use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};
use crisp_e2e::http_get;
use crisp_e2e::manifest::{pause, sh, sh_with};
use serde_json::json;
use std::fs;
use tokio::io::{AsyncBufReadExt, BufReader};

pub(super) async fn logs_are_followed_to_the_end(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("logs").await?;
    let main = sh("main", "for i in 1 2 3 4 5; do echo line $i; sleep 1; done");
    let spec = json!({"restartPolicy": "Never", "containers": [main]});
    kubectl.apply(&pod("teller", spec)).await?;
    kubectl
        .wait("--for=jsonpath={.status.phase}=Running pod/teller")
        .await?;
    let said = kubectl.run("logs -f teller").await?;
    ensure!(said == "line 1\nline 2\nline 3\nline 4\nline 5\n", "{said}");
    kubectl.delete_namespace().await
}

pub(super) async fn exec_has_a_terminal_and_a_code(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("exec").await?;
    kubectl
        .apply(&pod("shell", json!({"containers": [pause("main")]})))
        .await?;
    kubectl.ready("shell").await?;
    let mut terminal = kubectl.on_terminal(&["exec", "-it", "shell", "--", "sh"])?;
    terminal.resize(99, 33)?;
    terminal.enter("tty; echo $((6 * 7)) answers\n")?;
    terminal.wait_for("42 answers").await?;
    ensure!(
        terminal.shown().contains("/dev/pts/"),
        "{}",
        terminal.shown()
    );
    terminal.enter("until stty size | grep '33 99'; do sleep 0.2; done; exit 5\n")?;
    let status = terminal.wait().await?;
    ensure!(status.code() == Some(5), "{status}");
    let script = [
        "exec",
        "-i",
        "shell",
        "--",
        "sh",
        "-c",
        "cat; echo beside >&2; exit 7",
    ];
    let output = kubectl.try_run(&script, "through\n").await?;
    ensure!(
        output.code == Some(7)
            && output.stdout == "through\n"
            && output.stderr.starts_with("beside\n"),
        "{output:?}"
    );
    kubectl.delete_namespace().await
}

pub(super) async fn files_are_copied_both_ways(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("copy").await?;
    kubectl
        .apply(&pod("files", json!({"containers": [pause("main")]})))
        .await?;
    kubectl.ready("files").await?;
    let dir = cluster.workers[0].node.scratch()?;
    let (there, back) = (dir.join("there"), dir.join("back"));
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&there, &bytes)?;
    kubectl
        .run(&format!("cp {} files:/tmp/file", there.display()))
        .await?;
    kubectl
        .run(&format!("cp files:/tmp/file {}", back.display()))
        .await?;
    ensure!(fs::read(&back)? == bytes, "other bytes came back");
    kubectl.delete_namespace().await
}

pub(super) async fn attach_reads_and_writes(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("attach").await?;
    let echo = "while read -r line; do echo \"got $line\"; [ \"$line\" = end ] && exit 0; done";
    let main = sh_with("main", echo, json!({"stdin": true}));
    let spec = json!({"restartPolicy": "Never", "containers": [main]});
    kubectl.apply(&pod("echo", spec)).await?;
    kubectl.ready("echo").await?;
    let said = kubectl
        .run_with(&["attach", "-i", "-q", "echo"], "one\nend\n")
        .await?;
    ensure!(said == "got one\ngot end\n", "{said}");
    kubectl
        .wait("--for=jsonpath={.status.phase}=Succeeded pod/echo")
        .await?;
    kubectl.delete_namespace().await
}

pub(super) async fn port_is_forwarded_to_pod_and_service(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("forward").await?;
    kubectl
        .apply(&json!([
            pod("web", json!({"containers": [web()]})),
            service("web", json!({}))
        ]))
        .await?;
    kubectl.ready("web").await?;
    for (target, ports) in [("pod/web", ":8080"), ("service/web", ":80")] {
        let mut forward = kubectl.start(&["port-forward", "--address=127.0.0.1", target, ports])?;
        let stdout = forward.stdout.take().context("its output is a pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await?.context("it has ended")?;
        let address = line
            .strip_prefix("Forwarding from ")
            .and_then(|rest| rest.split(' ').next());
        let address = address.with_context(|| line.clone())?.parse()?;
        for _ in 0..3 {
            let answer = http_get(address, "/hostname").await?;
            ensure!(answer.ends_with("\r\n\r\nweb"), "{answer}");
        }
        forward.kill().await?;
    }
    kubectl.delete_namespace().await
}
