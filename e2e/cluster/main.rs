//! Runs a Kubernetes of its own on crisp: a control plane, and two nodes with kubelet, kube-proxy and
//! crisp, each in a network namespace. What is checked is what somebody sees who has kubectl.
//! `e2e/cluster.sh` prepares what it needs and explains its arguments.

#![forbid(unsafe_code)]

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
use crisp_e2e::{exit_code, run_apart};
use std::process::ExitCode;

fn main() -> ExitCode {
    exit_code(run_apart(async |wanted| check(&wanted).await))
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
