//! How far a transfer has come: a bar that is drawn again on a terminal, a line now and then elsewhere.

use crate::output;
use crate::text::{bytes, count};
use std::time::{Duration, Instant};

/// Letters of the bar.
const BAR: u64 = 28;

/// How often a line is written where nobody can watch a bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A moment of a transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) done_bytes: u64,
    /// None: nobody knows.
    pub(crate) total_bytes: Option<u64>,
    /// Parts that are there, and all of them; none when it is one whole.
    pub(crate) parts: Option<(usize, usize)>,
}

/// Shows a transfer on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    on_terminal: bool,
    begun: Instant,
    told: Instant,
    /// What was there when it began; it came from nowhere and tells nothing of the speed.
    before_bytes: Option<u64>,
}

impl Progress {
    /// Says what begins.
    pub(crate) fn begin(what: &str) -> Self {
        output::note(what);
        let now = Instant::now();
        Self {
            on_terminal: output::notes_go_to_a_terminal(),
            begun: now,
            told: now,
            before_bytes: None,
        }
    }

    pub(crate) fn show(&mut self, moment: &Moment) {
        if !self.on_terminal && self.told.elapsed() < LINE_EVERY {
            return;
        }
        let before = *self.before_bytes.get_or_insert(moment.done_bytes);
        let came = moment.done_bytes.saturating_sub(before);
        let text = text(moment, per_second(came, self.begun.elapsed()));
        match self.on_terminal {
            true => output::rewrite_note(&format!("{} {text}", bar(moment))),
            false => output::note(text),
        }
        self.told = Instant::now();
    }
}

/// The bar leaves no trace, whatever ends it.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.on_terminal {
            output::rewrite_note("");
        }
    }
}

fn bar(moment: &Moment) -> String {
    let total = moment.total_bytes.unwrap_or(0).max(1);
    let done = u128::from(moment.done_bytes.min(total)) * u128::from(BAR) / u128::from(total);
    let full = usize::try_from(done).unwrap_or(0);
    let empty = usize::try_from(BAR).unwrap_or(0) - full;
    format!("[{}{}]", "█".repeat(full), "·".repeat(empty))
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let per_second = u128::from(bytes) * 1000 / elapsed.as_millis().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// `12.3 MiB of 40.1 MiB, 2 of 5 blobs, 8.1 MiB/s`.
fn text(moment: &Moment, bytes_per_second: u64) -> String {
    let mut text = bytes(moment.done_bytes);
    if let Some(total) = moment.total_bytes {
        text.push_str(&format!(" of {}", bytes(total)));
    }
    if let Some((done, all)) = moment.parts {
        text.push_str(&format!(", {done} of {}", count(all, "blob")));
    }
    text.push_str(&format!(", {}/s", bytes(bytes_per_second)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_with_what_is_known() {
        let moment = Moment {
            done_bytes: 10 << 20,
            total_bytes: Some(40 << 20),
            parts: Some((2, 5)),
        };
        assert_eq!(
            text(&moment, 5 << 20),
            "10 MiB of 40 MiB, 2 of 5 blobs, 5 MiB/s"
        );
        assert_eq!(bar(&moment).matches('█').count(), 7);
        let unknown = Moment {
            done_bytes: 512,
            ..Moment::default()
        };
        assert_eq!(text(&unknown, 0), "512 B, 0 B/s");
    }

    #[test]
    fn a_speed_is_known_from_the_first_moment_on() {
        assert_eq!(per_second(10, Duration::ZERO), 10_000);
        assert_eq!(per_second(10 << 20, Duration::from_secs(2)), 5 << 20);
    }

    #[test]
    fn a_bar_is_never_longer_than_it_is() {
        for (done, total) in [
            (0, None),
            (0, Some(0)),
            (9, Some(3)),
            (u64::MAX, Some(u64::MAX)),
        ] {
            let moment = Moment {
                done_bytes: done,
                total_bytes: total,
                parts: None,
            };
            assert_eq!(bar(&moment).chars().count(), 30);
        }
    }
}
