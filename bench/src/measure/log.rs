//! A container that writes as fast as it can.

use super::{BOUND, Effort, in_turns};
use crate::conmon::{Conmon, Ended};
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
/// Before it writes, when all who have to do with its start are at rest.
const REST: Duration = Duration::from_millis(200);
const STEP: Duration = Duration::from_millis(50);

pub(super) async fn measure(
    runtimes: &[Runtime],
    conmon: Option<&Conmon>,
    effort: &Effort,
) -> Result<Vec<Row>> {
    // The kernel's column is between them.
    let of_conmon = runtimes.len() + 1;
    let mut samples = Samples::new(of_conmon + usize::from(conmon.is_some()));
    let mut add = |number, Written { time, cpu }| {
        let mb = (TIMES * LINES_BYTES) as f64 / 1e6;
        let (speed, unit) = (mb / time.as_secs_f64(), Unit::MegabytesPerSecond);
        samples.add(number, "log of one container", unit, speed);
        let (cost, unit) = (cpu.as_secs_f64() * 1e3 / mb, Unit::MillisecondsPerMegabyte);
        samples.add(number, "the runtime's cpu for it", unit, cost);
    };
    for _ in 0..effort.long_rounds {
        in_turns(runtimes, 1, 1, async |number, runtime| {
            add(number, write(runtime).await?);
            Ok(())
        })
        .await?;
        if let Some(conmon) = conmon {
            add(of_conmon, write_by(conmon).await?);
        }
    }
    Ok(samples.into_rows())
}

/// A log.
struct Written {
    /// How long the container took.
    time: Duration,
    /// What those who wrote it used of the cpus meanwhile.
    cpu: Duration,
}

fn script() -> String {
    let rest = REST.as_secs_f64();
    format!("sleep {rest}; for i in $(seq {TIMES}); do cat {LINES}; done; echo {LAST}")
}

async fn write(runtime: &Runtime) -> Result<Written> {
    let pod = runtime.run_pod(runtime.new_pod(Network::Own)?).await?;
    let container = runtime
        .create_with(&pod, &["/bin/sh", "-c", &script()])
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
    finish(&log).await?;
    let cpu = cpu_time(&processes).saturating_sub(before);
    runtime.end_pod(&started).await?;
    let nanoseconds = u64::try_from(status.finished_at - status.started_at)?;
    let time = Duration::from_nanos(nanoseconds).saturating_sub(REST);
    Ok(Written { time, cpu })
}

async fn write_by(conmon: &Conmon) -> Result<Written> {
    let Ended { after, cpu } = conmon.run(&script()).await?;
    finish(&conmon.log_path()).await?;
    let time = after.saturating_sub(REST);
    Ok(Written { time, cpu })
}

/// Waits until the log is whole, as what is in pipes when the container ends is written a little later, and
/// removes it.
async fn finish(log: &Path) -> Result<()> {
    let whole = async || ends_with(log, LAST).unwrap_or(false).then_some(());
    until_within(BOUND, STEP, "the log is whole", whole).await?;
    Ok(fs::remove_file(log)?)
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
