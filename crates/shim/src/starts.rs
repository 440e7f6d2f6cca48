//! Starts under way: what their processes report, and the answers to who asked for them.

use crate::connection::{Answer, ReplyTo, Waiters};
use crate::container::started;
use crate::exec::ExecStarted;
use crate::failure::RequestError;
use crate::journal::{Chain, journal};
use crate::pod::{Pod, PodError, PodStart};
use crate::poller::Key;
use crate::shim::Shim;
use crisp_crash::point;
use crisp_shim_api::message::{self, Process, event, reply};
use std::task::Poll;

impl From<PodError> for RequestError {
    fn from(error: PodError) -> Self {
        match error {
            PodError::Invalid(_) | PodError::Sysctl(_) => Self::Invalid(error.to_string()),
            error => Self::internal("start the pod")(error),
        }
    }
}

impl Shim {
    /// Answers with an error, and says so in the log.
    pub(crate) fn refuse(&mut self, to: ReplyTo, error: &RequestError) {
        journal!("request {} failed: {}", to.request_id, Chain(error));
        self.connections.reply(to, reply::Body::from(error).into());
    }

    fn answer_with(&mut self, to: ReplyTo, result: Result<Answer, RequestError>) {
        match result {
            Ok(answer) => self.connections.reply(to, answer),
            Err(error) => self.refuse(to, &error),
        }
    }

    pub(crate) fn pause_reported(&mut self) {
        let Pod::Starting(start) = &mut self.pod else {
            return;
        };
        let Poll::Ready(result) = start.finish() else {
            return;
        };
        let Pod::Starting(PodStart { pause, waiters, .. }) =
            std::mem::replace(&mut self.pod, Pod::New)
        else {
            unreachable!("the pod was starting just before");
        };
        match result {
            Ok(()) => {
                journal!("pod started, pause {}", pause.process.pid);
                point!("shim.pause-reported");
                for to in waiters.iter() {
                    let answer = pause.started(&self.witness).map_err(RequestError::from);
                    self.answer_with(to, answer);
                }
                point!("shim.pod-answered");
                self.pod = Pod::Running(pause);
            }
            Err(error) => {
                let error = error.into();
                for to in waiters.iter() {
                    self.refuse(to, &error);
                }
            }
        }
    }

    pub(crate) fn container_reported(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let Poll::Ready((waiters, result)) = container.finish_start() else {
            return;
        };
        match result {
            Ok(pid) => {
                journal!("container {}: started, pid {pid}", container.id);
                point!("shim.container-reported");
                if let Some(process) = container.describe() {
                    self.tell_started(process, &waiters);
                }
                point!("shim.container-answered");
                if let Some(status) = self.unclaimed.claim(pid) {
                    self.child_ended(pid, status);
                }
            }
            Err(error) => {
                if let Some(container) = self.containers.remove(&key) {
                    container.begin_poststop_unheard(&self.witness);
                }
                let error = error.into();
                for to in waiters.iter() {
                    self.refuse(to, &error);
                }
            }
        }
    }

    fn tell_started(&mut self, process: Process, waiters: &Waiters) {
        for to in waiters.iter() {
            self.connections.reply(to, started(&process).into());
        }
        let event = event::Body::Started(process);
        self.connections.tell_others(waiters, &event);
    }

    pub(crate) fn exec_reported(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        let Poll::Ready((to, result)) = exec.finish_start() else {
            return;
        };
        match result {
            Ok(ExecStarted { pid, fds }) => {
                journal!("exec {}: started, pid {pid}", exec.id);
                let started = message::ExecStarted {
                    pid: pid.as_raw().cast_unsigned(),
                };
                let body = reply::Body::ExecStarted(started);
                self.connections.reply(to, Answer { body, fds });
                point!("shim.exec-answered");
                if let Some(status) = self.unclaimed.claim(pid) {
                    self.child_ended(pid, status);
                }
            }
            Err(error) => {
                self.execs.remove(&key);
                self.refuse(to, &error.into());
            }
        }
    }
}
