//! What pods are over time: records, orchestration, recovery, stats.

#![forbid(unsafe_code)]
