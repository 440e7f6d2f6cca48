//! A container that writes as fast as it can.

use super::{Effort, in_turns};
use crate::figure::{Row, Samples, Unit};
use crate::images::{LINES, LINES_BYTES};
use crate::processes::cpu_time;
use crate::runtime::{Network, Runtime, Started};
use anyhow::{Result, ensure};
use crisp_cri_api::v1::{ContainerState, ContainerStatus};
use crisp_e2e::until_within;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// How often the container writes [`LINES`].
const TIMES: usize = 32;
/// What it writes then.
const LAST: &str = "no more of them";
/// As long as a runtime may take for all of it, and for what is left when the container has ended.
const BOUND: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(50);

pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    in_turns(runtimes, effort.long_rounds, 1, async |number, runtime| {
        let (seconds, cpu) = write(runtime).await?;
        let written_mb = (TIMES * LINES_BYTES) as f64 / 1e6;
        let (speed, cost) = (written_mb / seconds, cpu.as_secs_f64() * 1e3 / written_mb);
        let mut add = |what: &str, unit, value| samples.add(number, what, unit, value);
        add("log of one container", Unit::MegabytesPerSecond, speed);
        add(
            "the runtime's cpu for it",
            Unit::MillisecondsPerMegabyte,
            cost,
        );
        Ok(())
    })
    .await?;
    Ok(samples.into_rows())
}

/// How long the container took, in seconds, and what the runtime used of the cpus meanwhile.
async fn write(runtime: &Runtime) -> Result<(f64, Duration)> {
    let pod = runtime.run_pod(runtime.new_pod(Network::Own)?).await?;
    let script = format!("sleep 0.2; for i in $(seq {TIMES}); do cat {LINES}; done; echo {LAST}");
    let container = runtime
        .create_with(&pod, &["/bin/sh", "-c", &script])
        .await?;
    runtime.start(&container).await?;
    let started = Started { pod, container };
    let processes = [
        runtime.overhead(std::slice::from_ref(&started)).await?,
        vec![runtime.daemon],
    ]
    .concat();
    let before = cpu_time(&processes);
    let status = ended(runtime, &started.container).await?;
    let log = runtime.log_path(&started.pod);
    // What is in pipes when the container ends is written a little later.
    let whole = async || ends_with(&log, LAST).unwrap_or(false).then_some(());
    until_within(BOUND, STEP, "the log is whole", whole).await?;
    let cpu = cpu_time(&processes).saturating_sub(before);
    runtime.end_pod(&started).await?;
    fs::remove_file(log)?;
    let seconds = (status.finished_at - status.started_at) as f64 / 1e9 - 0.2;
    Ok((seconds, cpu))
}

async fn ended(runtime: &Runtime, container: &str) -> Result<ContainerStatus> {
    let ask = async || {
        let status = runtime.container_status(container).await;
        let running = |status: &ContainerStatus| status.state() == ContainerState::ContainerRunning;
        (!status.as_ref().is_ok_and(running)).then_some(status)
    };
    let status = until_within(BOUND, STEP, "the writer ends", ask).await??;
    ensure!(
        status.exit_code == 0,
        "the writer ended with {}",
        status.exit_code
    );
    Ok(status)
}

/// Whether the file's last line, which is longer than that, ends so.
fn ends_with(file: &Path, text: &str) -> io::Result<bool> {
    let end = format!("{text}\n");
    let mut file = File::open(file)?;
    file.seek(SeekFrom::End(
        -i64::try_from(end.len()).expect("a short text"),
    ))?;
    let mut last = String::new();
    file.read_to_string(&mut last)?;
    Ok(last == end)
}
