//! Pull and unpack of an image of five gzip layers, from a registry on loopback.

use super::{Effort, in_turns};
use crate::figure::{Row, Samples, Unit};
use crate::images::BIG;
use crate::processes::{peak_rss_bytes, reset_peak_rss};
use crate::runtime::{Runtime, timed};
use anyhow::Result;

pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    in_turns(runtimes, effort.long_rounds, 1, async |number, runtime| {
        runtime.remove_image(BIG).await?;
        reset_peak_rss(runtime.daemon)?;
        let ((), ms) = timed(runtime.pull(BIG)).await?;
        let peak = peak_rss_bytes(runtime.daemon)? as f64 / 1e6;
        let mut add = |what: &str, unit, value| samples.add(number, what, unit, value);
        add("pull and unpack of 500 MB", Unit::Seconds, ms / 1e3);
        add("the daemon's peak RSS meanwhile", Unit::Megabytes, peak);
        Ok(())
    })
    .await?;
    Ok(samples.into_rows())
}
