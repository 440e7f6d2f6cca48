//! What trace an RPC is part of.

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header of W3C Trace Context that tells the caller's trace and span.
const TRACE_PARENT: &str = "traceparent";

/// Makes a span that is not entered yet part of the trace that an RPC's metadata names; a name that
/// cannot be one is none. Without an exporter, and for most RPCs, there is nothing to do.
pub fn continue_trace(span: &Span, metadata: &HeaderMap) {
    if span.is_disabled() || !metadata.contains_key(TRACE_PARENT) {
        return;
    }
    let caller = TraceContextPropagator::new().extract(&Metadata(metadata));
    if caller.span().span_context().is_valid() {
        // Without an exporter no span has a parent of another process.
        let _ = span.set_parent(caller);
    }
}

struct Metadata<'a>(&'a HeaderMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
