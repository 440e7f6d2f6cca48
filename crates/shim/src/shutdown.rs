//! The end of a shim: everything in the pod is killed, pause last.

use crate::connection::{ReplyTo, Waiters};
use crate::container::Container;
use crate::exec::{self, Exec};
use crate::failure::RequestError;
use crate::journal::journal;
use crate::poller::Key;
use crate::shim::{Next, Shim};
use crisp_crash::point;
use crisp_shim_api::message::{Done, reply};
use crisp_sys::process::kill;
use std::collections::BTreeMap;
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
    waiters: Waiters,
    deadline: Instant,
    next_kill: Instant,
}

/// Whether the bound on the wait is reached.
#[derive(Debug, Clone, Copy)]
enum Time {
    Left,
    Up,
}

impl Closing {
    pub(crate) fn next(&self) -> Instant {
        self.next_kill.min(self.deadline)
    }
}

impl Shim {
    /// Has the shim end. Asking again joins those who wait.
    pub(crate) fn begin_shutdown(&mut self, to: ReplyTo) -> Result<(), RequestError> {
        if let Some(closing) = &mut self.closing {
            return closing.waiters.join(to);
        }
        let now = Instant::now();
        self.closing = Some(Closing {
            waiters: Waiters::new(to),
            deadline: now + MAX_SHUTDOWN_WAIT,
            next_kill: now,
        });
        point!("shim.closing");
        Ok(())
    }

    /// Goes on with ending, if that was asked for.
    pub(crate) fn close_down(&mut self, now: Instant) -> Next {
        let Some(closing) = &mut self.closing else {
            return Next::Wait;
        };
        let time = if now < closing.deadline {
            Time::Left
        } else {
            Time::Up
        };
        if now >= closing.next_kill {
            closing.next_kill = now + KILL_INTERVAL;
            self.kill_containers();
        }
        if self.has_live_containers() || !self.execs.is_empty() {
            return self.wait_or_end(time);
        }
        match self.pod.pause() {
            Some(pause) => {
                point!("shim.containers-ended");
                kill(&pause.pidfd);
                point!("shim.pause-killed");
                self.wait_or_end(time)
            }
            None => self.end(time),
        }
    }

    fn wait_or_end(&mut self, time: Time) -> Next {
        match time {
            Time::Left => Next::Wait,
            Time::Up => self.end(time),
        }
    }

    fn kill_containers(&mut self) {
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
    }

    /// A process that is on its way is killed wherever it is.
    fn abandon_starts(&mut self) {
        for container in take_where(&mut self.containers, |c| c.is_starting()) {
            self.abandon_start(container);
        }
        for exec in take_where(&mut self.execs, Exec::is_starting) {
            let (what, id) = ("exec", exec.id);
            if let exec::State::Starting {
                start, reply_to, ..
            } = exec.state
            {
                start.into_inner().abandon();
                self.refuse(reply_to, &RequestError::NotRunning { what, id });
            }
        }
    }

    /// Gives up the start of a container, which was forgotten. One that waits for a file system that hangs
    /// dies when that answers.
    pub(crate) fn abandon_start(&mut self, mut container: Box<Container>) {
        if let Some(waiters) = container.abandon_start(&self.witness) {
            let (what, id) = ("container", container.id);
            let error = RequestError::NotRunning { what, id };
            waiters.iter().for_each(|to| self.refuse(to, &error));
        }
    }

    /// Answers, last of all. What does not die in time is left.
    fn end(&mut self, time: Time) -> Next {
        match time {
            Time::Left => journal!("shim ends"),
            Time::Up => journal!("shim ends; processes that do not die are left"),
        }
        if let Some(closing) = self.closing.take() {
            for to in closing.waiters.iter() {
                self.connections
                    .reply(to, reply::Body::Done(Done {}).into());
            }
            point!("shim.shutdown-answered");
        }
        self.connections.close_all();
        Next::End
    }
}

/// Takes those values out of a map that are wanted.
fn take_where<T>(map: &mut BTreeMap<Key, T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let all = std::mem::take(map).into_iter();
    let (taken, kept): (BTreeMap<Key, T>, _) = all.partition(|(_, value)| wanted(value));
    *map = kept;
    taken.into_values().collect()
}
