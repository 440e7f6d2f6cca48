//! Runs Kubernetes' own tests of a node on crisp: those labelled `[NodeConformance]`.
//! `e2e/conformance.sh` prepares what it needs and explains its arguments.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the verdicts are for whoever runs it")]

mod exclusions;
mod host;
mod images;
mod suite;

use anyhow::{Context, Result, ensure};
use crisp_e2e::ginkgo::{Report, Verdict, empty_results};
use crisp_e2e::{HostSysctls, KubeletHost, Node, Registry, Slot, exit_code, run_apart, tools};
use exclusions::Exclusions;
use host::OwnDirectories;
use std::fs;
use std::process::ExitCode;
use suite::Suite;

fn main() -> ExitCode {
    exit_code(run_apart(async |words| test(&words).await))
}

/// Whether no spec failed.
async fn test(words: &[String]) -> Result<bool> {
    let _sysctls = HostSysctls::keep()?;
    let slot = Slot::take();
    let results = empty_results(tools::program("tools").with_file_name("conformance"))?;
    host::make_network()?;
    host::hide_systemd()?;
    let images = images::publish(Registry::shared());
    let node = Node::start_empty(|_| ()).await?;
    let host = KubeletHost::prepare(&node)?;
    let directories = OwnDirectories::show(slot.dir())?;
    for image in images {
        node.pull(&image).await?;
    }
    let suite = Suite::prepare(&node, slot.dir(), &results)?;
    let exclusions = Exclusions::here()?;
    suite.run(words, &exclusions).await?;
    let mut report = Report::read(&results.join("report.json"))
        .with_context(|| format!("no verdict: see {}", results.display()))?;
    fs::copy(node.log_path(), results.join("crisp.log"))?;
    report.explain(|name| exclusions.reason(name, words));
    println!("{report}");
    let some = report.count(Verdict::Passed) + report.count(Verdict::Failed);
    ensure!(some > 0, "no spec was run");
    node.remove_pods().await?;
    drop((directories, host));
    node.finish().await.context("after the suite")?;
    Ok(report.is_success())
}
