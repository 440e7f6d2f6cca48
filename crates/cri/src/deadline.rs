//! Ends an RPC at its client's deadline with the code that gRPC has for it.
//!
//! The server below ends it, too, but calls that cancelled; the kubelet tells a command that ran too
//! long from a failed one by DEADLINE_EXCEEDED. Its timer is made after ours and it asks us first, so
//! that the answer is always the one from here.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::codegen::http;
use tower_layer::Layer;
use tower_service::Service;

/// The header with a client's patience (gRPC over HTTP/2, "Timeout").
const HEADER: &str = "grpc-timeout";
/// Digits that it may have.
const DIGITS_MAX: usize = 8;

/// Bounds each RPC by its client's deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines;

/// A service whose RPCs end at their clients' deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<S> {
    inner: S,
}

impl<S> Layer<S> for Deadlines {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner }
    }
}

impl<S, In, Out> Service<http::Request<In>> for Bounded<S>
where
    S: Service<http::Request<In>, Response = http::Response<Out>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    Out: Default + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<In>) -> Self::Future {
        let value = request.headers().get(HEADER);
        let patience = value.and_then(|value| patience(value.to_str().ok()?));
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let answer = self.inner.call(request);
        match deadline {
            Some(deadline) => Box::pin(until(deadline, answer)),
            None => Box::pin(answer),
        }
    }
}

async fn until<Out: Default, E>(
    deadline: Instant,
    answer: impl Future<Output = Result<http::Response<Out>, E>>,
) -> Result<http::Response<Out>, E> {
    let mut answer = pin!(answer);
    let mut timer = pin!(sleep_until(deadline));
    poll_fn(|context| {
        // The clock is asked, not the timer: it may be another one that wakes this at the deadline.
        if timer.as_mut().poll(context).is_ready() || Instant::now() >= deadline {
            let late = Status::deadline_exceeded("the client's deadline passed before the answer");
            return Poll::Ready(Ok(late.into_http()));
        }
        answer.as_mut().poll(context)
    })
    .await
}

/// A number of at most eight digits and a unit.
fn patience(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let digits =
        (1..=DIGITS_MAX).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| digits)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tonic::Code;

    type Answer = Result<http::Response<String>, Infallible>;

    #[test]
    fn a_clients_patience_is_read_in_every_unit() {
        for (text, duration) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(patience(text), Some(duration), "{text}");
        }
        for wrong in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1é"] {
            assert_eq!(patience(wrong), None, "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_is_the_deadlines() {
        let never = std::future::pending::<Answer>();
        let answer = until(Instant::now() + Duration::from_secs(1), never).await;
        let status = Status::from_header_map(answer.expect("infallible").headers());
        assert_eq!(status.expect("a status").code(), Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_passed_on() {
        let answer = async { Answer::Ok(http::Response::new("in time".to_owned())) };
        let answer = until(Instant::now() + Duration::from_secs(1), answer).await;
        assert_eq!(answer.expect("infallible").body(), "in time");
    }
}
