//! Bounded waiting. Tests assert what happens, never how long it takes.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Long enough for a machine that runs several tests at once on two cores.
const BOUND: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
///
/// # Errors
/// There is none after a minute.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("waited {BOUND:?} in vain: {what}");
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Asks until the answer is yes.
///
/// # Errors
/// It is no after a minute.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(what, async || holds().then_some(())).await
}
