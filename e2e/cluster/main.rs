//! Runs a Kubernetes of its own on crisp: a control plane, and two nodes with kubelet, kube-proxy and
//! crisp, each in a network namespace. What is checked is what somebody sees who has kubectl.
//! `e2e/cluster.sh` prepares what it needs and explains its arguments.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "the error is for whoever runs it")]

mod checks;
mod cluster;
mod control;
mod images;
mod kubectl;
mod metrics;
mod names;
mod network;
mod worker;

use anyhow::Result;
use cluster::Cluster;
use crisp_e2e::{leave_host, unless_interrupted};
use std::process::ExitCode;
use tokio::runtime;

fn main() -> ExitCode {
    match check_apart() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_apart() -> Result<bool> {
    leave_host()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    runtime.block_on(async { unless_interrupted(check(&wanted)).await? })
}

/// Whether no check failed.
async fn check(wanted: &[String]) -> Result<bool> {
    let suite = checks::suite().wanted(wanted)?;
    let skipped = suite.skipped;
    let cluster = Cluster::start().await?;
    let mut tally = suite.run(&cluster).await;
    tally.report("nothing_is_left", cluster.finish().await);
    Ok(tally.conclude(skipped))
}
