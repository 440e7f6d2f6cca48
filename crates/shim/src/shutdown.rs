//! The end of a shim: everything in the pod is killed, pause last.

use crate::connection::ReplyTo;
use crate::container;
use crate::exec;
use crate::failure::RequestError;
use crate::journal::journal;
use crate::shim::{Next, Shim};
use crisp_shim_api::message::{Done, reply};
use crisp_sys::process::kill;
use std::time::{Duration, Instant};

/// How long what is killed may take to die. What does not, such as a process in uninterruptible sleep,
/// is left to the host's init.
const MAX_SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// The time between two rounds of killing.
const KILL_INTERVAL: Duration = Duration::from_millis(10);

/// A shim that is to end.
#[derive(Debug)]
pub(crate) struct Closing {
    /// Who is to be answered, last.
    waiting: Vec<ReplyTo>,
    deadline: Instant,
    next_kill: Instant,
}

impl Closing {
    pub(crate) fn next(&self) -> Instant {
        self.next_kill.min(self.deadline)
    }
}

impl Shim {
    /// Has the shim end. Asking again joins those who wait.
    pub(crate) fn begin_shutdown(&mut self, to: ReplyTo) {
        let now = Instant::now();
        let closing = self.closing.get_or_insert_with(|| Closing {
            waiting: Vec::new(),
            deadline: now + MAX_SHUTDOWN_WAIT,
            next_kill: now,
        });
        closing.waiting.push(to);
    }

    /// Goes on with ending, if that was asked for.
    pub(crate) fn close_down(&mut self, now: Instant) -> Next {
        let Some(closing) = &mut self.closing else {
            return Next::Wait;
        };
        let in_time = now < closing.deadline;
        if in_time && now >= closing.next_kill {
            closing.next_kill = now + KILL_INTERVAL;
            self.kill_all();
        }
        if in_time && !self.is_empty() {
            return Next::Wait;
        }
        self.farewell(in_time);
        Next::End
    }

    fn kill_all(&mut self) {
        self.abandon_starts();
        for exec in self.execs.values() {
            if let Ok(pidfd) = exec.require_running() {
                kill(pidfd);
            }
        }
        for container in self.containers.values() {
            if let Some(running) = container.running() {
                kill(&running.pidfd);
                container.cgroup.kill();
            }
        }
        if !self.has_live_containers()
            && self.execs.is_empty()
            && let Some(pause) = self.pod.pause()
        {
            kill(&pause.pidfd);
        }
    }

    fn abandon_starts(&mut self) {
        let mut refused = Vec::new();
        let starting = |container: &container::Container| {
            matches!(container.state, container::State::Starting { .. })
        };
        for (_, container) in self.containers.extract_if(.., |_, c| starting(c)) {
            container.cgroup.kill();
            if let container::State::Starting { start, reply_to } = container.state {
                start.into_inner().abandon();
                refused.push(("container", container.id, reply_to));
            }
        }
        let starting = |exec: &exec::Exec| matches!(exec.state, exec::State::Starting { .. });
        for (_, exec) in self.execs.extract_if(.., |_, e| starting(e)) {
            if let exec::State::Starting {
                start, reply_to, ..
            } = exec.state
            {
                start.into_inner().abandon();
                refused.push(("exec", exec.id, reply_to));
            }
        }
        for (what, id, to) in refused {
            self.refuse(to, &RequestError::NotRunning { what, id });
        }
    }

    fn is_empty(&self) -> bool {
        !self.has_live_containers() && self.execs.is_empty() && self.pod.pause().is_none()
    }

    fn farewell(&mut self, in_time: bool) {
        journal!(
            "shim ends{}",
            if in_time {
                ""
            } else {
                "; processes that do not die are left"
            }
        );
        for to in self
            .closing
            .take()
            .map(|closing| closing.waiting)
            .unwrap_or_default()
        {
            self.connections
                .reply(to, reply::Body::Done(Done {}).into());
        }
        self.connections.close_all();
    }
}
