//! What is wrong with the node at the moment, and since when nothing is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a call may take, and a thing that has to come about, once nothing is wrong.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// How often it is looked at whether a wait is over its bound.
const STEP: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Faults {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ongoing: u32,
    calm_since: Instant,
}

/// Something is wrong for as long as this lives.
#[derive(Debug)]
pub(crate) struct Fault<'a>(&'a Faults);

impl Faults {
    pub(crate) fn new() -> Self {
        let state = State {
            ongoing: 0,
            calm_since: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn begin(&self) -> Fault<'_> {
        self.lock().ongoing += 1;
        Fault(self)
    }

    /// Whether something was wrong at any time since `start`.
    pub(crate) fn disturbed_since(&self, start: Instant) -> bool {
        let state = self.lock();
        state.ongoing > 0 || state.calm_since > start
    }

    /// Whether something that began at `start` should have come to its end, which without faults takes
    /// it `BOUND` and `extra`.
    pub(crate) fn is_overdue(&self, start: Instant, extra: Duration) -> bool {
        let state = self.lock();
        state.ongoing == 0 && state.calm_since.max(start).elapsed() > BOUND + extra
    }

    /// Comes back when that is so.
    pub(crate) async fn overdue(&self, start: Instant, extra: Duration) {
        while !self.is_overdue(start, extra) {
            tokio::time::sleep(STEP).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ongoing -= 1;
        state.calm_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_a_fault_is_disturbed() {
        let faults = Faults::new();
        let before = Instant::now();
        let (first, second) = (faults.begin(), faults.begin());
        drop(first);
        assert!(faults.disturbed_since(Instant::now()));
        drop(second);
        assert!(faults.disturbed_since(before));
        assert!(!faults.disturbed_since(Instant::now()));
    }
}
