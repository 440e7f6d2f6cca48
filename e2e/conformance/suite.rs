//! The suite itself: the process, and the kubelet that it starts.

use crate::exclusions::{Exclusions, LABEL};
use anyhow::{Context, Result};
use crisp_e2e::ginkgo::{Report, run_suite};
use crisp_e2e::manifest::merged;
use crisp_e2e::{Node, OWN_ADDRESS, kubelet_config, tools};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Kubernetes' own jobs have as long.
const TIMEOUT: &str = "2h";

/// The suite, ready to run.
#[derive(Debug)]
pub(crate) struct Suite {
    /// In a directory of its own, where it leaves files.
    program: PathBuf,
    temporary: PathBuf,
    flags: Vec<String>,
}

/// Which specs are run, and how.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// Parts of their names; none are for all.
    pub(crate) words: &'a [String],
    /// How many go on beside each other.
    pub(crate) processes: u8,
    /// The directory of the report, and of what all programs say.
    pub(crate) results: &'a Path,
}

impl Suite {
    pub(crate) fn prepare(node: &Node, dir: &Path) -> Result<Self> {
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
            "--node-name=node".to_owned(),
            // They are on the node already, all that can be had.
            "--prepull-images=false".to_owned(),
        ];
        Ok(Self {
            program,
            temporary,
            flags: flags.into(),
        })
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, run: &Run<'_>, exclusions: &Exclusions) -> Result<Report> {
        let Run {
            words,
            processes,
            results,
        } = run;
        let focus = words
            .iter()
            .map(|word| format!("--focus={}", literal(word)));
        let skip = exclusions
            .names()
            .map(|name| format!("--skip={}", literal(name)));
        let mut ginkgo = Command::new(tools::program("tools/kubernetes/ginkgo"));
        ginkgo
            .args(["--no-color", "--timeout", TIMEOUT])
            .arg(format!("--procs={processes}"))
            .arg(format!("--label-filter={LABEL}"))
            .args(focus)
            .args(skip)
            .arg("--json-report=report.json")
            .arg(format!("--output-dir={}", results.display()))
            .arg(&self.program)
            .arg("--")
            .args(&self.flags)
            .arg(format!("--report-dir={}", results.display()))
            .env("TMPDIR", &self.temporary);
        run_suite(ginkgo, &results.join("suite.log")).await?;
        let report = Report::read(&results.join("report.json"));
        report.with_context(|| format!("no verdict: see {}", results.display()))
    }
}

/// The kubelet's, before the suite has changed what it has to.
fn config_of(node: &Node, dir: &Path) -> serde_json::Value {
    merged(
        kubelet_config(node, dir),
        json!({
            "fileCheckFrequency": "10s",
        }),
    )
}

/// What is stronger than the configuration: the suite has its kubelet move processes to cgroups else, all
/// of the machine among them.
fn kubelet_flags(socket: &Path) -> String {
    format!(
        "--system-cgroups= --kubelet-cgroups= --runtime-cgroups= --node-ip={OWN_ADDRESS} --containerd={}",
        socket.display()
    )
}

/// A regular expression for a text as it is, but that its words may be further apart (Go, regexp/syntax).
fn literal(text: &str) -> String {
    let escaped = text.chars().map(|char| match char {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => char.to_string(),
        ' ' => " +".to_owned(),
        other => format!("\\{other}"),
    });
    escaped.collect()
}
