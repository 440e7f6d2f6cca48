//! Runs a kubelet on crisp and looks at pods through it: what a pod's author was promised, and what the
//! kubelet tells of it. `e2e/kubelet.sh` prepares what it needs and explains its arguments.

#![forbid(unsafe_code)]

mod checks;
mod kubelet;
mod pod;

use anyhow::Result;
use crisp_e2e::{Node, exit_code, unless_interrupted};
use kubelet::Kubelet;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code(check_unless_interrupted().await)
}

async fn check_unless_interrupted() -> Result<bool> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    unless_interrupted(check(&wanted)).await?
}

/// Whether no check failed.
async fn check(wanted: &[String]) -> Result<bool> {
    let suite = checks::suite().wanted(wanted)?;
    let skipped = suite.skipped;
    let kubelet = Kubelet::start(Node::start_for_kubelet().await?).await?;
    let mut tally = suite.run(&kubelet).await;
    tally.report("nothing_is_left", kubelet.finish().await);
    Ok(tally.conclude(skipped))
}
