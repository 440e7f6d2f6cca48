//! The deletion of links behind the pods that have gone.
//!
//! Deleting one link takes the kernel some 27 ms, in which nobody else can change links; deleting
//! sixteen together takes hardly longer. So links are collected, deleted in small groups, and with
//! pauses in which pods can be started.

use crate::link;
use crate::wire::{Batch, Wire};
use netlink_packet_core::NLM_F_ACK;
use nix::errno::Errno;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many links go in one request.
const GROUP: usize = 16;
/// The pause before each request.
const PAUSE: Duration = Duration::from_millis(50);

/// Links to be deleted, by name; the next group is due at `due`.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    doomed: VecDeque<String>,
    due: Option<Instant>,
}

impl Reaper {
    pub(crate) fn doom(&mut self, link: String) {
        self.doomed.push_back(link);
        self.due.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// When there is something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
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
        self.due = (!self.doomed.is_empty()).then(|| Instant::now() + PAUSE);
    }

    /// Deletes all there is, without pauses.
    pub(crate) fn reap_all(&mut self, wire: &mut Wire) {
        while self.due.is_some() {
            self.reap(wire);
        }
    }
}
