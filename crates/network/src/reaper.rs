//! The deletion of links behind the pods that have gone.
//!
//! Deleting one link takes the kernel some 27 ms, in which nobody else can change links; deleting
//! sixteen together takes hardly longer. So links are collected, deleted in small groups, and when
//! no pod is being started; but not put off for ever.

use crate::link;
use crate::wire::{Batch, Wire};
use netlink_packet_core::NLM_F_ACK;
use nix::errno::Errno;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many links go in one request.
const GROUP: usize = 16;
/// How long there must have been nothing else to do.
const QUIET: Duration = Duration::from_millis(50);
/// How long links are put off at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many links wait for a quiet moment at most.
const BACKLOG: usize = 128;

/// Links to be deleted, by name.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    doomed: VecDeque<String>,
    /// When the next group is deleted, and when at the latest; none without links.
    schedule: Option<Schedule>,
}

#[derive(Debug, Clone, Copy)]
struct Schedule {
    due: Instant,
    latest: Instant,
}

impl Reaper {
    pub(crate) fn doom(&mut self, link: String) {
        self.doomed.push_back(link);
        self.schedule.get_or_insert_with(Schedule::from_now);
    }

    /// When there is something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.schedule.map(|schedule| schedule.due)
    }

    /// Puts the next group off, because there was something else to do.
    pub(crate) fn put_off(&mut self) {
        if let Some(schedule) = &mut self.schedule
            && self.doomed.len() < BACKLOG
        {
            schedule.due = schedule.latest.min(Instant::now() + QUIET);
        }
    }

    /// Deletes the next group. A link that has already gone went with its namespace.
    pub(crate) fn reap(&mut self, wire: &mut Wire) {
        let mut batch = Batch::default();
        for name in self.doomed.drain(..self.doomed.len().min(GROUP)) {
            batch.push_forgiving(
                "mark a link for deletion",
                NLM_F_ACK,
                link::doom(&name),
                &[Errno::ENODEV],
            );
        }
        batch.push_forgiving(
            "delete links",
            NLM_F_ACK,
            link::delete_doomed(),
            &[Errno::ENODEV],
        );
        if let Err(refusal) = wire.transact(batch) {
            tracing::warn!(
                op = refusal.op,
                error = %refusal.source,
                "a link of a pod that has gone stays behind"
            );
        }
        self.schedule = (!self.doomed.is_empty()).then(Schedule::from_now);
    }

    /// Deletes all there is at once.
    pub(crate) fn reap_all(&mut self, wire: &mut Wire) {
        while self.schedule.is_some() {
            self.reap(wire);
        }
    }
}

impl Schedule {
    fn from_now() -> Self {
        let now = Instant::now();
        Self {
            due: now + QUIET,
            latest: now + PATIENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_wait_for_a_quiet_moment_but_not_for_ever() {
        let mut reaper = Reaper::default();
        assert_eq!(reaper.due(), None);
        reaper.doom("a".to_owned());
        let latest = reaper.schedule.unwrap().latest;
        let first = reaper.due().unwrap();
        reaper.put_off();
        assert!(reaper.due().unwrap() >= first);
        reaper.schedule.as_mut().unwrap().latest = first;
        reaper.put_off();
        assert_eq!(reaper.due(), Some(first));
        assert!(latest > first);
    }

    #[test]
    fn a_long_backlog_is_not_put_off() {
        let mut reaper = Reaper::default();
        for number in 0..BACKLOG {
            reaper.doom(number.to_string());
        }
        let due = reaper.due();
        reaper.put_off();
        assert_eq!(reaper.due(), due);
    }
}
