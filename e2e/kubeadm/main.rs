//! Has kubeadm make a cluster of one node on crisp, uses it, and has kubeadm reset it.
//! `e2e/kubeadm.sh` prepares what it needs and explains its arguments.

#![forbid(unsafe_code)]

mod cluster;
mod images;
mod machine;

use anyhow::Result;
use crisp_e2e::checks::Suite;
use crisp_e2e::{checks, exit_code, run_apart};
use machine::Machine;
use std::process::ExitCode;

fn main() -> ExitCode {
    exit_code(run_apart(async |_| check().await))
}

/// Whether no check failed.
async fn check() -> Result<bool> {
    let machine = Machine::start().await?;
    let mut tally = suite().run(&machine).await;
    tally.report("nothing_is_left", machine.finish().await);
    Ok(tally.conclude(&[]))
}

fn suite() -> Suite<Machine> {
    let alone = checks![
        cluster::init_makes_a_control_plane,
        cluster::node_is_ready_and_all_pods_run,
        cluster::pod_runs_and_is_heard,
        cluster::reset_removes_all_pods,
    ];
    Suite {
        together: Vec::new(),
        alone,
        skipped: &[],
    }
}
