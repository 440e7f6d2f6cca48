//! Runs a kubelet on crisp and looks at pods through it: what a pod's author was promised, and what the
//! kubelet tells of it. `e2e/kubelet.sh` prepares what it needs and explains its arguments.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the verdicts are for whoever runs it"
)]

mod checks;
mod host;
mod kubelet;
mod pod;

use anyhow::{Result, ensure};
use checks::{Check, Outcome};
use crisp_e2e::{Node, unless_interrupted};
use kubelet::Kubelet;
use std::cell::RefCell;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match check_unless_interrupted().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn check_unless_interrupted() -> Result<bool> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    unless_interrupted(check(&wanted)).await?
}

/// Whether no check failed.
async fn check(wanted: &[String]) -> Result<bool> {
    let is_wanted = |check: &Check| {
        wanted.is_empty() || wanted.iter().any(|part| check.name.contains(part.as_str()))
    };
    let (together, alone) = checks::all();
    let together: Vec<Check> = together.into_iter().filter(is_wanted).collect();
    let alone: Vec<Check> = alone.into_iter().filter(is_wanted).collect();
    ensure!(
        together.len() + alone.len() > 0,
        "no check is named so: {wanted:?}"
    );

    let kubelet = Kubelet::start(Node::start().await?).await?;
    let mut outcomes = side_by_side(&kubelet, together).await;
    for check in alone {
        outcomes.push(check.run(&kubelet).await);
    }
    outcomes.push(checks::report("nothing_is_left", kubelet.finish().await));
    let passed = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Passed)
        .count();
    let failed = outcomes.len() - passed;
    for (name, reason) in checks::SKIPPED {
        println!("skipped {name}: {reason}");
    }
    let skipped = checks::SKIPPED.len();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

/// Each of six lanes takes the next check when it has ended one: most wait for the kubelet most of the
/// time.
async fn side_by_side(kubelet: &Kubelet, checks: Vec<Check>) -> Vec<Outcome> {
    let queue = RefCell::new(checks.into_iter());
    let lane = async || {
        let mut outcomes = Vec::new();
        loop {
            let Some(check) = queue.borrow_mut().next() else {
                return outcomes;
            };
            outcomes.push(check.run(kubelet).await);
        }
    };
    let lanes = tokio::join!(lane(), lane(), lane(), lane(), lane(), lane());
    <[_; 6]>::from(lanes).concat()
}
