//! Children that have ended, and what follows from it.

use crate::exec::Exec;
use crate::journal::{Chain, journal};
use crate::pod::Pod;
use crate::poller::Key;
use crate::shim::Shim;
use crisp_crash::point;
use crisp_shim_api::ExitRecord;
use crisp_shim_api::message::{Exit, PodExited, event};
use crisp_sys::process::{ExitStatus, try_reap};
use nix::unistd::Pid;

/// Exits of children that nobody is known to be, of which each start needs one at most.
const MAX_UNCLAIMED: usize = 1024;

/// Exits that may turn out to be those of processes whose start is still being reported.
#[derive(Debug, Default)]
pub(crate) struct Unclaimed(Vec<(Pid, ExitStatus)>);

impl Unclaimed {
    fn keep(&mut self, pid: Pid, status: ExitStatus) {
        if self.0.len() >= MAX_UNCLAIMED {
            self.0.remove(0);
        }
        self.0.push((pid, status));
    }

    /// The exit of a process that has just been made known.
    pub(crate) fn claim(&mut self, pid: Pid) -> Option<ExitStatus> {
        let index = self.0.iter().position(|(unclaimed, _)| *unclaimed == pid)?;
        Some(self.0.remove(index).1)
    }
}

impl Shim {
    /// Reaps all children that have ended. Orphans of the pod are among them, and helpers of starts;
    /// of those nobody needs to know.
    pub(crate) fn reap(&mut self) {
        while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        // What has ended may have been reported as started just before.
        self.hear_reports();
        while let Ok(Some((pid, status))) = try_reap(None) {
            self.child_ended(pid, status);
        }
        if !self.is_starting() {
            self.unclaimed = Unclaimed::default();
        }
    }

    pub(crate) fn child_ended(&mut self, pid: Pid, status: ExitStatus) {
        if self.pod.pause().is_some_and(|pause| pause.pid == pid) {
            self.pause_ended(status);
        } else if let Some(key) = self.container_with_init(pid) {
            if let Some(container) = self.containers.get_mut(&key) {
                point!("shim.init-reaped");
                container.init_ended(status);
            }
        } else if let Some(key) = self.exec_with(pid) {
            self.exec_ended(key, pid, status);
        } else if !self.poststop_ended(pid) && self.is_starting() {
            self.unclaimed.keep(pid, status);
        }
    }

    /// Goes on with ending those containers whose first process has ended.
    pub(crate) fn end_containers(&mut self) {
        let exits: Vec<Exit> = self
            .containers
            .values_mut()
            .filter_map(|container| container.try_end(&mut self.scratch, &self.witness))
            .collect();
        for exit in exits {
            self.container_ended(exit);
        }
    }

    /// The record comes before the event, so that what one daemon was told every later one can read.
    fn container_ended(&mut self, exit: Exit) {
        if let Err(error) = ExitRecord::write(&self.paths.exits(), &exit) {
            journal!(
                "container {}: no exit record: {}",
                exit.container_id,
                Chain(&error)
            );
        }
        let Exit {
            container_id,
            code,
            signal,
            oom_killed,
            ..
        } = &exit;
        journal!("container {container_id}: ended, code {code} signal {signal} oom {oom_killed}");
        self.connections.broadcast(&event::Body::Exit(exit));
        point!("shim.exit-told");
    }

    fn exec_ended(&mut self, key: Key, pid: Pid, status: ExitStatus) {
        let Some(exec) = self.execs.remove(&key) else {
            return;
        };
        let container = self.containers.get(&exec.container);
        let exit = exec.ended(status, pid, container.map(Box::as_ref));
        point!("shim.exec-ended");
        let Exit {
            container_id,
            exec_id,
            code,
            signal,
            timed_out,
            ..
        } = &exit;
        journal!(
            "container {container_id}: exec {exec_id} ended, code {code} signal {signal} \
             timeout {timed_out}"
        );
        self.connections.broadcast(&event::Body::Exit(exit));
    }

    /// One that has not executed yet reports why by itself.
    fn pause_ended(&mut self, status: ExitStatus) {
        if !matches!(self.pod, Pod::Running(_)) {
            return;
        }
        let (code, signal) = match status {
            ExitStatus::Exited(code) => (code, 0),
            ExitStatus::Killed(signal) => (0, signal),
        };
        let exited = PodExited { code, signal };
        journal!("pause ended, code {code} signal {signal}");
        self.pod = Pod::Exited(exited);
        self.connections.broadcast(&event::Body::PodExited(exited));
    }

    fn poststop_ended(&mut self, pid: Pid) -> bool {
        let mut containers = self.containers.values_mut();
        let exit = containers.find_map(|container| container.poststop_ended(pid));
        exit.map(|exit| self.container_ended(exit)).is_some()
    }

    fn hear_reports(&mut self) {
        self.pause_reported();
        let containers: Vec<Key> = self.containers.keys().copied().collect();
        for key in containers {
            self.container_reported(key);
        }
        let execs: Vec<Key> = self.execs.keys().copied().collect();
        for key in execs {
            self.exec_reported(key);
        }
    }

    fn is_starting(&self) -> bool {
        self.containers.values().any(|c| c.is_starting())
            || self.execs.values().any(Exec::is_starting)
    }

    fn container_with_init(&self, pid: Pid) -> Option<Key> {
        self.containers
            .iter()
            .find(|(_, container)| {
                container
                    .running()
                    .is_some_and(|running| running.pid == pid)
            })
            .map(|(key, _)| *key)
    }

    fn exec_with(&self, pid: Pid) -> Option<Key> {
        self.execs
            .iter()
            .find(|(_, exec)| exec.pid() == Some(pid))
            .map(|(key, _)| *key)
    }
}
