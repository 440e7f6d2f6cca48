//! Runs critest, the suite that tells whether something is a container runtime in the eyes of the
//! kubelet: against a daemon of its own, or against any endpoint. `e2e/critest.sh` prepares what it
//! needs and explains its options.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the verdicts are for whoever runs it")]

mod images;
mod options;
mod suite;

use anyhow::{Context, Result, ensure};
use crisp_e2e::ginkgo::{Report, Verdict, empty_results};
use crisp_e2e::{
    MIRRORED, Mirror, Node, Registry, Slot, exit_code, oci_handlers, tools, unless_interrupted,
};
use options::{Options, Target};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use suite::Suite;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code(test_unless_interrupted().await)
}

async fn test_unless_interrupted() -> Result<bool> {
    let options = Options::parse(std::env::args().skip(1))?;
    unless_interrupted(test(&options)).await?
}

/// Whether no spec failed in any run.
async fn test(options: &Options) -> Result<bool> {
    let slot = Slot::take();
    let work = tools::program("tools").with_file_name("critest");
    fs::create_dir_all(&work)?;
    let _lock = lock_host_ports(&work.join("lock"))?;
    let results = empty_results(work.join("results"))?;
    let registry = Registry::shared();
    let digest = images::publish(registry);
    let suite = Suite::prepare(slot.dir(), &digest)?;
    match &options.target {
        Target::Endpoint { endpoint, mirrors } => {
            let put = |dir: &PathBuf| Mirror::put(dir, &MIRRORED);
            let _mirror = mirrors.as_ref().map(put).transpose()?;
            run_all(&suite, endpoint, options, &results).await
        }
        Target::Own => {
            let handler = options.suite.handler.is_some();
            let handlers = handler.then(|| ("handlers".to_owned(), oci_handlers().into()));
            let node = Node::start_empty(|config| config.extend(handlers)).await?;
            let endpoint = format!("unix://{}", node.socket().display());
            let all_passed = run_all(&suite, &endpoint, options, &results).await?;
            node.finish().await.context("after the suite")?;
            Ok(all_passed)
        }
    }
}

async fn run_all(suite: &Suite, endpoint: &str, options: &Options, results: &Path) -> Result<bool> {
    let mut all_passed = true;
    for run in 1..=options.times {
        let dir = results.join(run.to_string());
        fs::create_dir(&dir)?;
        suite.run(endpoint, &options.suite, &dir).await?;
        let report = Report::read(&dir.join("report.json"))
            .with_context(|| format!("no verdict: see {}/critest.log", dir.display()))?;
        let seconds = report.run_time().as_secs_f32();
        println!(
            "run {run} of {}: {seconds:.1} s, seed {}, all it printed in {}/critest.log",
            options.times,
            report.seed(),
            dir.display(),
        );
        println!("{report}");
        let some = report.count(Verdict::Passed) + report.count(Verdict::Failed);
        ensure!(some > 0, "no spec was run");
        all_passed &= report.is_success();
    }
    Ok(all_passed)
}

/// The suite's specs use fixed ports of the host: one suite at a time.
fn lock_host_ports(path: &Path) -> Result<File> {
    let lock = File::create(path)?;
    if lock.try_lock().is_err() {
        println!("waiting for another run of the suite to end");
        lock.lock()?;
    }
    Ok(lock)
}
