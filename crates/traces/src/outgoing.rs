//! Spans on their way to the collector: named as others name theirs, and told when they do not arrive.

use opentelemetry::trace::SpanKind;
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// An exporter in front of another one.
#[derive(Debug)]
pub(crate) struct Outgoing<E> {
    inner: E,
    endpoint: String,
    /// Whether the last batch was taken.
    arrives: AtomicBool,
}

impl<E> Outgoing<E> {
    pub(crate) fn new(inner: E, endpoint: &str) -> Self {
        Self {
            inner,
            endpoint: endpoint.to_owned(),
            arrives: AtomicBool::new(true),
        }
    }

    /// Tells that the collector takes no spans, or takes them again: once each.
    fn tell(&self, result: &OTelSdkResult) {
        let arrives = result.is_ok();
        let endpoint = &self.endpoint;
        match (self.arrives.swap(arrives, Ordering::Relaxed), result) {
            (true, Err(error)) => {
                tracing::warn!(%endpoint, %error, "the collector takes no traces; they are dropped");
            }
            (false, Ok(())) => tracing::info!(%endpoint, "the collector takes traces again"),
            _ => {}
        }
    }
}

impl<E: SpanExporter> SpanExporter for Outgoing<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(name_conventionally);
        let result = self.inner.export(batch).await;
        self.tell(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A span is `rpc` or `phase` to us, with a field of this name that says which; to those who look at
/// traces it is the method or the phase. An RPC is one by the semantic conventions for gRPC.
fn name_conventionally(span: &mut SpanData) {
    let is_own = |attribute: &KeyValue| attribute.key.as_str() == span.name;
    let Some(own) = span.attributes.iter().position(is_own) else {
        return;
    };
    let Value::String(name) = span.attributes.swap_remove(own).value else {
        return;
    };
    if span.name == "rpc" {
        span.span_kind = SpanKind::Server;
        span.attributes.push(KeyValue::new("rpc.system", "grpc"));
        span.attributes
            .push(KeyValue::new("rpc.method", name.clone()));
    }
    span.name = String::from(name).into();
}
