//! The start of a pod with one container, and its end, by phases; and the kernel's part of it.

use super::{Effort, TURN, in_turns};
use crate::figure::{Row, Samples, Unit};
use crate::runtime::{Network, Pod, Runtime, timed};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    in_turns(runtimes, effort.rounds, TURN, async |number, runtime| {
        let mut add = |what: &str, ms| samples.add(number, what, Unit::Milliseconds, ms);
        let (pod, container) = start(runtime, Network::Own, &mut add).await?;
        end(runtime, &pod, &container, &mut add).await
    })
    .await?;
    in_turns(runtimes, effort.rounds, TURN, async |number, runtime| {
        let mut total = 0.0;
        let (pod, container) = start(runtime, Network::Host, |_, ms| total = ms).await?;
        let what = "pod start, host network";
        samples.add(number, what, Unit::Milliseconds, total);
        end(runtime, &pod, &container, |_, _| ()).await
    })
    .await?;
    let mut rows = samples.into_rows();
    add_floor(&mut rows, effort.rounds)?;
    Ok(rows)
}

/// Gives rows a figure for the kernel, behind those of the runtimes. A process of its own measures it,
/// with one thread.
fn add_floor(rows: &mut [Row], rounds: usize) -> Result<()> {
    let mut floor = Command::new(std::env::current_exe()?);
    floor.args(["floor", "--rounds", &rounds.to_string()]);
    let output = floor.stderr(Stdio::inherit()).output()?;
    let floor: Vec<Row> = serde_json::from_slice(&output.stdout).context("the kernel's floor")?;
    for row in rows {
        let same = floor.iter().find(|floor| floor.what == row.what);
        row.figures.extend(same.map(|floor| floor.figures[0]));
    }
    Ok(())
}

/// The last that it tells is the sum.
async fn start(
    runtime: &Runtime,
    network: Network,
    mut tell: impl FnMut(&str, f64),
) -> Result<(Pod, String)> {
    let config = runtime.new_pod(network)?;
    let (pod, run_ms) = timed(runtime.run_pod(config)).await?;
    let (container, create_ms) = timed(runtime.create(&pod)).await?;
    let ((), start_ms) = timed(runtime.start(&container)).await?;
    tell("RunPodSandbox", run_ms);
    tell("CreateContainer", create_ms);
    tell("StartContainer", start_ms);
    tell("pod start", run_ms + create_ms + start_ms);
    Ok((pod, container))
}

async fn end(
    runtime: &Runtime,
    pod: &Pod,
    container: &str,
    mut tell: impl FnMut(&str, f64),
) -> Result<()> {
    let ((), stop_ms) = timed(runtime.stop(container)).await?;
    let ((), stop_pod_ms) = timed(runtime.stop_pod(&pod.id)).await?;
    let ((), remove_ms) = timed(runtime.remove(container)).await?;
    let ((), remove_pod_ms) = timed(runtime.remove_pod(&pod.id)).await?;
    tell("StopContainer", stop_ms);
    tell("StopPodSandbox", stop_pod_ms);
    tell("RemoveContainer", remove_ms);
    tell("RemovePodSandbox", remove_pod_ms);
    tell(
        "pod stop and remove",
        stop_ms + stop_pod_ms + remove_ms + remove_pod_ms,
    );
    Ok(())
}
