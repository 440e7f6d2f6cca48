//! What a daemon takes, and what pods take that do nothing.

use super::{CLIENTS, Effort, end_pods, start_pods};
use crate::figure::{Row, Samples, Unit};
use crate::processes::{cpu_time, pss_bytes, rss_bytes};
use crate::runtime::Runtime;
use anyhow::Result;
use std::time::{Duration, Instant};

const PODS: usize = 100;
/// As often the kubelet asks for all pods and containers.
const RELIST: Duration = Duration::from_secs(1);
/// How long a daemon is left alone before its memory is what it keeps without pods. With pods, it is idle as
/// long as its cpu time is counted.
const REST: Duration = Duration::from_secs(10);

/// One runtime after the other: what is done for pods of one would be in the way of another's.
pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    for (number, runtime) in runtimes.iter().enumerate() {
        if effort.most_pods(number) < PODS {
            continue;
        }
        let mut add = |what: &str, unit, value| samples.add(number, what, unit, value);
        // What a daemon takes to make pods at all is none of each pod's.
        let first = runtime.start_pod().await?;
        runtime.end_pod(&first).await?;
        tokio::time::sleep(REST).await;
        let before = pss_bytes(runtime.daemon)?;
        let pods = start_pods(runtime, PODS, CLIENTS).await?;
        let shims = runtime.overhead(&pods).await?;
        let processes = [shims.clone(), vec![runtime.daemon]].concat();
        let ((), idle) = cpu_percent(&processes, tokio::time::sleep(effort.idle)).await;
        for (what, bytes) in memory(runtime, before, &shims)? {
            add(what, Unit::Megabytes, bytes / 1e6);
        }
        add("cpu, 100 idle pods", Unit::CpuPercent, idle);
        let (asked, polled) = cpu_percent(&processes, relist(runtime, effort.idle)).await;
        asked?;
        add(
            "  while lists are asked for each second",
            Unit::CpuPercent,
            polled,
        );
        end_pods(runtime, &pods, CLIENTS).await?;
    }
    Ok(samples.into_rows())
}

/// In bytes. `before` is what the daemon had of its own without pods.
fn memory(runtime: &Runtime, before: u64, shims: &[i32]) -> Result<[(&'static str, f64); 4]> {
    let daemon = runtime.daemon;
    let shims: u64 = shims.iter().map(|&pid| pss_bytes(pid)).sum::<Result<_>>()?;
    let growth = pss_bytes(daemon)?.saturating_sub(before);
    let per_pod = |bytes: u64| bytes as f64 / PODS as f64;
    Ok([
        (
            "daemon RSS, before the first pod",
            runtime.rss_at_first_bytes as f64,
        ),
        ("daemon RSS, 100 pods", rss_bytes(daemon)? as f64),
        ("memory per idle pod (PSS)", per_pod(shims + growth)),
        ("  of which the daemon's growth", per_pod(growth)),
    ])
}

/// Asks for lists as a kubelet does, for so long.
async fn relist(runtime: &Runtime, long: Duration) -> Result<()> {
    let asking = async {
        loop {
            runtime.list_pods().await?;
            runtime.list_containers().await?;
            tokio::time::sleep(RELIST).await;
        }
    };
    tokio::time::timeout(long, asking).await.unwrap_or(Ok(()))
}

/// How much of a core processes use while something goes on, in percent.
async fn cpu_percent<T>(processes: &[i32], meanwhile: impl Future<Output = T>) -> (T, f64) {
    let (start, before) = (Instant::now(), cpu_time(processes));
    let done = meanwhile.await;
    let used = cpu_time(processes).saturating_sub(before);
    (
        done,
        used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0,
    )
}
