//! Pull and unpack of an image of five gzip layers, from a registry on loopback.

use super::Effort;
use crate::figure::{Row, Samples, Unit};
use crate::images::BIG;
use crate::processes::{peak_rss_bytes, reset_peak_rss};
use crate::runtime::{Runtime, timed};
use anyhow::Result;

pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    for _ in 0..effort.long_rounds {
        for (number, runtime) in runtimes.iter().enumerate() {
            runtime.remove_image(BIG).await?;
            reset_peak_rss(runtime.daemon)?;
            let ((), ms) = timed(runtime.pull(BIG)).await?;
            samples.add(number, "pull and unpack of 500 MB", Unit::Seconds, ms / 1e3);
            let peak = peak_rss_bytes(runtime.daemon)? as f64 / 1e6;
            samples.add(
                number,
                "the daemon's peak RSS meanwhile",
                Unit::Megabytes,
                peak,
            );
        }
    }
    Ok(samples.into_rows())
}
