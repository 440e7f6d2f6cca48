//! What the daemon counts and times of its own work, and the endpoint that tells it to Prometheus.
//!
//! Everything that is counted has one entry in [`Metrics`], whose labels have few values, all known
//! beforehand: what a client names never becomes one. Pods and containers are told as their numbers;
//! what each of them uses is told by the CRI.
//!
//! The text is that of OpenMetrics 1.0: names end with their unit, times are in seconds, sizes in bytes.

#![forbid(unsafe_code)]

mod buckets;
mod endpoint;
mod metrics;
mod phase;
mod process;
mod pulls;

pub use endpoint::{Endpoint, Error};
pub use metrics::{Count, Metrics, Recovered, Rpc};
pub use phase::Phase;
pub use pulls::Pulls;
