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
use crisp_e2e::{
    HostSysctls, KubeletHost, Node, OwnDirectories, Registry, Slot, exit_code, make_network,
    run_apart, tools,
};
use exclusions::Exclusions;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use suite::{Run, Suite};

/// How many specs go on beside each other: most wait most of the time.
const PROCESSES: u8 = 12;
/// Fixed places of a kubelet, and of its suite.
const DIRECTORIES: [&str; 2] = ["/var/lib/kubelet", "/var/log"];
/// When more fail than that, it is no accident.
const ACCIDENTS_MAX: usize = 20;

fn main() -> ExitCode {
    exit_code(run_apart(async |words| test(&words).await))
}

/// Whether no spec failed.
async fn test(words: &[String]) -> Result<bool> {
    let _sysctls = HostSysctls::keep()?;
    let slot = Slot::take();
    let results = empty_results(tools::program("tools").with_file_name("conformance"))?;
    make_network()?;
    host::hide_systemd()?;
    let images = images::publish(Registry::shared());
    let node = Node::start_empty(|_| ()).await?;
    let host = KubeletHost::prepare(&node)?;
    let directories = OwnDirectories::show(slot.dir(), &DIRECTORIES)?;
    for image in images {
        node.pull(&image).await?;
    }
    let suite = Suite::prepare(&node, slot.dir())?;
    let exclusions = Exclusions::here()?;
    let mut report = run(&suite, words, &exclusions, &results).await?;
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

/// Runs the specs beside each other, and those that fail once more, alone: some of them are about moments,
/// which a machine that is busy does not keep.
async fn run(
    suite: &Suite,
    words: &[String],
    exclusions: &Exclusions,
    results: &Path,
) -> Result<Report> {
    let together = Run {
        words,
        processes: PROCESSES,
        results,
    };
    let mut report = suite.run(&together, exclusions).await?;
    let failures = report.failures();
    if (1..=ACCIDENTS_MAX).contains(&failures.len()) {
        let results = empty_results(results.join("alone"))?;
        let alone = Run {
            words: &failures,
            processes: 1,
            results: &results,
        };
        report.settle(&suite.run(&alone, exclusions).await?);
    }
    Ok(report)
}
