//! What is wrong with the node at the moment, and since when nothing is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a call may take, and a thing that has to come about, once nothing is wrong.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// The same where faults come again and again, over all moments at which nothing was wrong: what hangs is
/// not to be hidden by a daemon that is restarted before anybody can tell.
const BOUND_IN_PIECES: Duration = Duration::from_secs(60);

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
    /// How long nothing was wrong, up to the last fault.
    calm_before: Duration,
}

/// The beginning of something that has to come to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    at: Instant,
    /// How long nothing had been wrong by then.
    calm: Duration,
}

/// Something is wrong for as long as this lives.
#[derive(Debug)]
pub(crate) struct Fault<'a>(&'a Faults);

impl Faults {
    pub(crate) fn new() -> Self {
        let state = State {
            ongoing: 0,
            calm_since: Instant::now(),
            calm_before: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn begin(&self) -> Fault<'_> {
        let mut state = self.lock();
        state.calm_before = state.calm();
        state.ongoing += 1;
        Fault(self)
    }

    /// Something begins now.
    pub(crate) fn start(&self) -> Begun {
        Begun {
            at: Instant::now(),
            calm: self.lock().calm(),
        }
    }

    /// Whether something was wrong at any time since `start`.
    pub(crate) fn disturbed_since(&self, start: Instant) -> bool {
        let state = self.lock();
        state.ongoing > 0 || state.calm_since > start
    }

    /// Whether something should have come to its end by now, which without faults takes it [`BOUND`] and
    /// `extra`.
    pub(crate) fn is_overdue(&self, begun: Begun, extra: Duration) -> bool {
        let state = self.lock();
        let at_once =
            state.ongoing == 0 && state.calm_since.max(begun.at).elapsed() > BOUND + extra;
        at_once || state.calm() - begun.calm > BOUND_IN_PIECES + extra
    }

    /// Comes back when that is so.
    pub(crate) async fn overdue(&self, begun: Begun, extra: Duration) {
        while !self.is_overdue(begun, extra) {
            tokio::time::sleep(STEP).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long nothing was wrong so far.
    fn calm(&self) -> Duration {
        match self.ongoing {
            0 => self.calm_before + self.calm_since.elapsed(),
            _ => self.calm_before,
        }
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

    #[test]
    fn what_is_disturbed_again_and_again_is_overdue_all_the_same() {
        let faults = Faults::new();
        let begun = faults.start();
        assert!(!faults.is_overdue(begun, Duration::ZERO));
        faults.lock().calm_before += BOUND_IN_PIECES;
        drop(faults.begin());
        assert!(faults.is_overdue(begun, Duration::ZERO));
        assert!(!faults.is_overdue(begun, BOUND));
        assert!(!faults.is_overdue(faults.start(), Duration::ZERO));
    }
}
