//! The suite itself: the process, and the kubelet that it starts.

use crate::exclusions::{Exclusions, LABEL};
use crate::host::ADDRESS;
use anyhow::Result;
use crisp_e2e::ginkgo::run_suite;
use crisp_e2e::manifest::merged;
use crisp_e2e::{Node, kubelet_config, tools};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// How many specs go on beside each other: most wait most of the time.
const PROCESSES: u8 = 12;
/// Kubernetes' own jobs have as long.
const TIMEOUT: &str = "2h";

/// The suite, ready to run.
#[derive(Debug)]
pub(crate) struct Suite {
    /// In a directory of its own, where it leaves files.
    program: PathBuf,
    temporary: PathBuf,
    flags: Vec<String>,
    results: PathBuf,
}

impl Suite {
    pub(crate) fn prepare(node: &Node, dir: &Path, results: &Path) -> Result<Self> {
        let (suite, temporary) = (dir.join("suite"), dir.join("tmp"));
        for dir in [&suite, &temporary] {
            fs::create_dir(dir)?;
        }
        let program = suite.join("e2e_node.test");
        symlink(tools::program("tools/kubernetes/e2e_node.test"), &program)?;
        let config = suite.join("config.json");
        fs::write(&config, config_of(node, dir).to_string())?;
        let programs = tools::program("tools/kubernetes");
        let socket = node.socket();
        let flags = [
            format!("--k8s-bin-dir={}", programs.display()),
            format!("--container-runtime-endpoint=unix://{}", socket.display()),
            format!("--kubelet-config-file={}", config.display()),
            format!("--kubelet-flags={}", kubelet_flags(&socket)),
            format!("--report-dir={}", results.display()),
            "--node-name=node".to_owned(),
            // They are on the node already, all that can be had.
            "--prepull-images=false".to_owned(),
        ];
        Ok(Self {
            program,
            temporary,
            flags: flags.into(),
            results: results.to_owned(),
        })
    }

    /// Runs it to its end; its report is `report.json` among the results.
    pub(crate) async fn run(&self, words: &[String], exclusions: &Exclusions) -> Result<()> {
        let mut ginkgo = Command::new(tools::program("tools/kubernetes/ginkgo"));
        ginkgo
            .args(["--no-color", "--timeout", TIMEOUT])
            .arg(format!("--procs={PROCESSES}"))
            .arg(format!("--label-filter={}", LABEL))
            .args(
                words
                    .iter()
                    .map(|word| format!("--focus={}", literal(word))),
            )
            .args(
                exclusions
                    .names()
                    .map(|name| format!("--skip={}", literal(name))),
            )
            .arg("--json-report=report.json")
            .arg(format!("--output-dir={}", self.results.display()))
            .arg(&self.program)
            .arg("--")
            .args(&self.flags)
            .env("TMPDIR", &self.temporary);
        run_suite(ginkgo, &self.results.join("suite.log")).await
    }
}

/// The kubelet's, before the suite has changed what it has to.
fn config_of(node: &Node, dir: &Path) -> serde_json::Value {
    merged(
        kubelet_config(node, dir),
        json!({
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
            "fileCheckFrequency": "10s",
            "imageGCHighThresholdPercent": 100,
        }),
    )
}

/// What is stronger than the configuration: the suite has its kubelet move processes to cgroups else, all
/// of the machine among them.
fn kubelet_flags(socket: &Path) -> String {
    format!(
        "--system-cgroups= --kubelet-cgroups= --runtime-cgroups= --node-ip={ADDRESS} --containerd={}",
        socket.display()
    )
}

/// A regular expression for a text as it is (Go, regexp/syntax).
fn literal(text: &str) -> String {
    let escaped = text.chars().map(|char| match char {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '_' => char.to_string(),
        other => format!("\\{other}"),
    });
    escaped.collect()
}
