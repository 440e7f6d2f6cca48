//! Pods started per second by several clients.

use super::{Effort, end_pods, in_turns, start_pods};
use crate::figure::{Row, Samples, Unit};
use crate::runtime::{Runtime, timed};
use anyhow::Result;

const CLIENTS: [usize; 4] = [1, 8, 16, 32];
/// Of each sample.
const PODS: usize = 64;

pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    for clients in CLIENTS {
        in_turns(runtimes, effort.crowds, 1, async |number, runtime| {
            let (pods, start_ms) = timed(start_pods(runtime, PODS, clients)).await?;
            let ((), end_ms) = timed(end_pods(runtime, &pods, clients)).await?;
            let mut add = |what: &str, ms: f64| {
                let what = format!("pods {what}, {clients} at a time");
                samples.add(number, &what, Unit::PerSecond, PODS as f64 / ms * 1e3);
            };
            add("started", start_ms);
            add("removed", end_ms);
            Ok(())
        })
        .await?;
    }
    Ok(samples.into_rows())
}
