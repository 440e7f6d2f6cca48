//! Traces of the daemon's work, told to an OpenTelemetry collector by OTLP over gRPC.
//!
//! A trace is the caller's: a kubelet whose tracing is on sends with each RPC which trace and span it is
//! part of (W3C Trace Context, in the metadata), and whether anybody wants to see it. The daemon's spans
//! become children of that one. Spans are those of crate `tracing`: `rpc` for each RPC, `phase` for each
//! phase of a start, `pull` for the fetching of an image, which several RPCs may wait for. Without an [`Exporter`] nothing of this is at work.
//!
//! A collector that is slow or away costs spans, never time: they wait in a queue that is bounded.

#![forbid(unsafe_code)]

mod exporter;
mod outgoing;
mod parent;

pub use exporter::{Error, Exporter, SpanLayer};
pub use parent::continue_trace;
