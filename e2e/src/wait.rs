//! Bounded waiting. Tests assert what happens, never how long it takes.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Long enough for an emulated machine that runs several tests at once, beside others.
const BOUND: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
///
/// # Errors
/// There is none after three minutes.
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    until_within(BOUND, STEP, what, ask).await
}

/// The same with a bound of its own, and the time between two questions.
///
/// # Errors
/// There is no answer within the bound.
pub async fn until_within<T>(
    bound: Duration,
    step: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("waited {bound:?} in vain: {what}");
        }
        tokio::time::sleep(step).await;
    }
}

/// Asks until the answer is yes.
///
/// # Errors
/// It is no after three minutes.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(what, async || holds().then_some(())).await
}

/// Does something that ends early when somebody interrupts or terminates this program: what was started
/// for it is then dropped, which ends it.
///
/// # Errors
/// The program was interrupted or terminated.
pub async fn unless_interrupted<R>(work: impl Future<Output = R>) -> Result<R> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = work => Ok(result),
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}
