//! The field's own command line: each command that it has, judged by what it prints or does.

mod images;
mod lifecycle;
mod lists;
mod logs;
mod observe;
mod settings;
mod streams;

use anyhow::{Context, Result, ensure};
use crisp_e2e::Node;
use serde_json::{Value, json};
use std::path::Path;

/// crictl prints ids and nothing else with `-q`, `runp` and `create`.
async fn line(node: &Node, arguments: &[&str]) -> Result<String> {
    Ok(node.crictl(arguments).await?.stdout.trim().to_owned())
}

async fn json(node: &Node, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&node.crictl(arguments).await?.stdout)?)
}

fn write(dir: &Path, name: &str, content: &Value) -> Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, content.to_string())?;
    Ok(path
        .to_str()
        .context("temporary paths are UTF-8")?
        .to_owned())
}

fn pod_json(node: &Node, name: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "namespace": "default"},
        "log_directory": node.scratch().expect("the scratch directory can be made"),
        "linux": {},
    })
}

fn container_json(name: &str, image: &str, command: &[&str]) -> Value {
    json!({
        "metadata": {"name": name},
        "image": {"image": image},
        "command": command,
        "log_path": format!("{name}.log"),
        "linux": {},
    })
}

/// The commands that some test of this module runs.
const TESTED: [&str; 32] = [
    "attach",
    "checkpoint",
    "completion",
    "config",
    "create",
    "events",
    "exec",
    "imagefsinfo",
    "images",
    "info",
    "inspect",
    "inspecti",
    "inspectp",
    "logs",
    "metricdescs",
    "metricsp",
    "pods",
    "port-forward",
    "ps",
    "pull",
    "rm",
    "rmi",
    "rmp",
    "run",
    "runp",
    "runtime-config",
    "start",
    "stats",
    "statsp",
    "stop",
    "stopp",
    "update",
];
/// And those beyond that.
const TESTED_TOO: [&str; 3] = ["update-runtime-config", "version", "help"];

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_has_no_command_that_is_not_tested() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let help = node.crictl(&["--help"]).await?.stdout;
    let commands = help
        .split_once("COMMANDS:")
        .and_then(|(_, rest)| rest.split_once("\n\n"))
        .context("a list of commands")?
        .0;
    let names = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| name.trim_end_matches(','));
    let missing: Vec<_> = names
        .filter(|name| !TESTED.contains(name) && !TESTED_TOO.contains(name))
        .collect();
    ensure!(missing.is_empty(), "{missing:?}");
    node.finish().await
}
