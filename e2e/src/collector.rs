//! An OpenTelemetry collector that keeps what it is sent.

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::trace::v1::Span;

type Received = Arc<Mutex<Vec<(Resource, Span)>>>;

/// A collector on loopback, by OTLP over gRPC. It ends when this is dropped.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    received: Received,
    server: JoinHandle<()>,
}

impl Collector {
    /// One on a port of its own.
    ///
    /// # Errors
    /// Loopback has no free port.
    ///
    /// # Panics
    /// In a task, if it cannot serve.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let received = Received::default();
        let service = TraceServiceServer::new(Keeping(received.clone()));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async { serving.await.expect("loopback can be served") });
        Ok(Self {
            endpoint,
            received,
            server,
        })
    }

    /// Where spans are to be sent.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The spans of a trace that have come, each with who sent it.
    #[must_use]
    pub fn trace(&self, trace_id: &[u8]) -> Vec<(Resource, Span)> {
        let received = self.received.lock();
        let received = received.unwrap_or_else(PoisonError::into_inner);
        let is_of = |sent: &&(Resource, Span)| sent.1.trace_id == trace_id;
        received.iter().filter(is_of).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug)]
struct Keeping(Received);

#[tonic::async_trait]
impl TraceService for Keeping {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in request.into_inner().resource_spans {
            let resource = sender.resource.unwrap_or_default();
            let spans = sender.scope_spans.into_iter().flat_map(|scope| scope.spans);
            received.extend(spans.map(|span| (resource.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The text that an attribute has; none: it is missing, or no text.
#[must_use]
pub fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}
