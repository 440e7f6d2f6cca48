//! From spans to the collector.

use crate::outgoing::Outgoing;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use std::time::Duration;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait for the collector; what comes when they are so many is dropped.
const QUEUE_MAX: usize = 2048;

/// The most spans that are sent at once.
const BATCH_MAX: usize = 512;

/// How long a span waits for others at most.
const BATCH_DELAY: Duration = Duration::from_secs(5);

/// How long the collector has to take a batch.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of the daemon waits for the last batch.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// Hears spans of a subscriber and has them sent.
pub type SpanLayer<S> = OpenTelemetryLayer<S, SdkTracer>;

/// The exporter cannot be made: the collector's address is none.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent to {endpoint:?}")]
pub struct Error {
    endpoint: String,
    #[source]
    source: ExporterBuildError,
}

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// An exporter to `endpoint`, as `http://127.0.0.1:4317`. Nothing is connected before there are spans.
    /// Of RPCs that are part of no trace, `samples_per_million` begin one. To be called where a tokio
    /// runtime is entered.
    ///
    /// # Errors
    /// The endpoint is no URL of a plain gRPC server.
    pub fn start(endpoint: &str, samples_per_million: u32) -> Result<Self, Error> {
        let sender = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(SEND_PATIENCE)
            .build()
            .map_err(|source| Error {
                endpoint: endpoint.to_owned(),
                source,
            })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(Outgoing::new(sender, endpoint))
            .with_batch_config(batches)
            .build();
        let ratio = Sampler::TraceIdRatioBased(f64::from(samples_per_million) / 1e6);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource())
            .build();
        Ok(Self { provider })
    }

    /// What a subscriber needs for its spans to be sent.
    #[must_use]
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> SpanLayer<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("crisp"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
    }

    /// Sends what waits. Blocks for a moment.
    pub fn end(&self) {
        // What a collector does not take now is lost; that it does not, is told already.
        let _ = self.provider.shutdown_with_timeout(END_PATIENCE);
    }
}

/// Who sends, as the semantic conventions for resources name it.
fn resource() -> Resource {
    let host = nix::sys::utsname::uname().ok();
    let host = host.and_then(|names| Some(names.nodename().to_str()?.to_owned()));
    Resource::builder_empty()
        .with_service_name("crisp")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(host.map(|name| KeyValue::new("host.name", name)))
        .build()
}
