//! One tracing span per RPC, with the pod, container or image that it is about, and one line at the
//! end of an RPC that failed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::codegen::http;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// What a client names may be of any length; so much of it is logged.
const SHOWN_CHARS_MAX: usize = 128;

/// Puts each RPC in a span of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RpcSpans;

/// A service whose RPCs are each in a span of their own.
#[derive(Debug, Clone)]
pub(crate) struct Spanned<S> {
    inner: S,
}

impl<S> Layer<S> for RpcSpans {
    type Service = Spanned<S>;

    fn layer(&self, inner: S) -> Spanned<S> {
        Spanned { inner }
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
        let span = rpc_span(request.uri().path());
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(until_answered(answer).instrument(span))
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
) -> Result<http::Response<Out>, E> {
    let waiting = CallerWaits;
    let answer = answer.await?;
    std::mem::forget(waiting);
    match answer.extensions().get::<Status>() {
        Some(status) => log_failure(status),
        None => tracing::debug!("answered"),
    }
    Ok(answer)
}

/// Dropped with an RPC that its caller gave up.
struct CallerWaits;

impl Drop for CallerWaits {
    fn drop(&mut self) {
        tracing::debug!("the caller gave up; what was begun goes on");
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
