//! One tracing span per RPC, with the pod, container or image that it is about, one line at the end of an
//! RPC that failed, and the time that each takes.

use crisp_cri_api::Method;
use crisp_engine::Engine;
use crisp_metrics::Rpc;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::codegen::http;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// What a client names may be of any length; so much of it is logged.
const SHOWN_CHARS_MAX: usize = 128;

/// What is counted as the service and method of an RPC that there is not.
const UNKNOWN: &str = "unknown";

/// Puts each RPC in a span of its own, and counts it.
#[derive(Debug, Clone)]
pub(crate) struct RpcSpans {
    /// Its metrics count.
    engine: Arc<Engine>,
}

impl RpcSpans {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

/// A service whose RPCs are each in a span of their own.
#[derive(Debug, Clone)]
pub(crate) struct Spanned<S> {
    inner: S,
    engine: Arc<Engine>,
}

impl<S> Layer<S> for RpcSpans {
    type Service = Spanned<S>;

    fn layer(&self, inner: S) -> Spanned<S> {
        Spanned {
            inner,
            engine: self.engine.clone(),
        }
    }
}

impl<S, In, Out> Service<http::Request<In>> for Spanned<S>
where
    S: Service<http::Request<In>, Response = http::Response<Out>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    Out: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<In>) -> Self::Future {
        let path = request.uri().path();
        let (span, under_way) = (rpc_span(path), UnderWay::new(path, self.engine.clone()));
        crisp_traces::continue_trace(&span, request.headers());
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(until_answered(answer, under_way).instrument(span))
    }
}

/// The span of an RPC; the path is `/package.Service/Method`.
fn rpc_span(path: &str) -> Span {
    let rpc = path.rsplit('/').next().unwrap_or_default();
    tracing::info_span!(
        "rpc",
        rpc = shown(rpc),
        pod = Empty,
        container = Empty,
        image = Empty
    )
}

async fn until_answered<Out, E>(
    answer: impl Future<Output = Result<http::Response<Out>, E>>,
    mut under_way: UnderWay,
) -> Result<http::Response<Out>, E> {
    let answer = answer.await?;
    let failure = failure(&answer);
    under_way.code = Some(failure.as_ref().map_or(Code::Ok, Status::code));
    match &failure {
        Some(status) => log_failure(status),
        None => tracing::debug!("answered"),
    }
    Ok(answer)
}

/// Services leave their status beside the headers; what is routed to none has only those.
fn failure<Out>(answer: &http::Response<Out>) -> Option<Status> {
    let beside = answer.extensions().get().cloned();
    beside.or_else(|| Status::from_header_map(answer.headers()))
}

/// An RPC that is counted when this is dropped: with its answer, or because its caller gave up.
struct UnderWay {
    engine: Arc<Engine>,
    method: Option<Method>,
    began: Instant,
    /// None: it was not answered.
    code: Option<Code>,
}

impl UnderWay {
    fn new(path: &str, engine: Arc<Engine>) -> Self {
        Self {
            engine,
            method: Method::of_path(path),
            began: Instant::now(),
            code: None,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.code.is_none() {
            tracing::debug!("the caller gave up; what was begun goes on");
        }
        self.engine.metrics().rpc(Rpc {
            service: self.method.map_or(UNKNOWN, |method| method.service),
            method: self.method.map_or(UNKNOWN, |method| method.name),
            code: code_name(self.code.unwrap_or(Code::Cancelled)),
            duration: self.began.elapsed(),
        });
    }
}

/// As gRPC's documentation of status codes has it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Logs a failed RPC, once. What clients ask as a matter of course is no news to an operator.
pub(crate) fn log_failure(status: &Status) {
    let (code, error) = (status.code(), status.message());
    match code {
        Code::NotFound | Code::Unimplemented | Code::Cancelled | Code::DeadlineExceeded => {
            tracing::debug!(?code, error, "the RPC failed");
        }
        _ => tracing::error!(?code, error, "the RPC failed"),
    }
}

/// Says which pod the RPC is about.
pub(crate) fn about_pod(id: &str) {
    Span::current().record("pod", shown(id));
}

/// Says which container the RPC is about.
pub(crate) fn about_container(id: &str) {
    Span::current().record("container", shown(id));
}

/// Says which image the RPC is about.
pub(crate) fn about_image(name: &str) {
    Span::current().record("image", shown(name));
}

fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN_CHARS_MAX).map(|(at, _)| at);
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_long_name_is_shown() {
        assert_eq!(shown("abc"), "abc");
        assert_eq!(shown(&"é".repeat(500)), "é".repeat(SHOWN_CHARS_MAX));
    }
}
