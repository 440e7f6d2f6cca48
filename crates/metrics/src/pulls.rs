//! What is counted of pulls.

use crate::buckets::{self, Histograms};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Counts of pulls. Clones count together; one that is in no registry counts for nobody.
#[derive(Debug, Clone)]
pub struct Pulls {
    durations: Histograms<1>,
    bytes: Counter,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(buckets::of_pulls),
            bytes: Counter::default(),
        }
    }
}

impl Pulls {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "crisp_image_pull_duration_seconds",
            "Time from the beginning of a pull to its result: success, or the kind of its error",
            self.durations.clone(),
        );
        registry.register(
            "crisp_image_pull_bytes",
            "Bytes of layers that registries sent, as they are compressed",
            self.bytes.clone(),
        );
    }

    /// A pull has ended. `result` is one of a few words.
    pub fn ended(&self, result: &'static str, duration: Duration) {
        self.durations
            .get_or_create(&[("result", result)])
            .observe(duration.as_secs_f64());
    }

    /// So many bytes of a layer have arrived.
    pub fn received(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }
}
