//! What daemons ask for.

use crate::client::Wanted;
use crate::connection::{Answer, ReplyTo};
use crate::container::{Container, PodParts};
use crate::exec::Exec;
use crate::failure::RequestError;
use crate::journal::journal;
use crate::pod::{Pod, PodStart};
use crate::poller::Key;
use crate::shim::Shim;
use crisp_crash::point;
use crisp_shim_api::message::{
    self, Attach, Attached, CloseStdin, Done, Hello, OpenSocket, Processes, RemoveContainer,
    ReopenLog, ResizeTerminal, SocketOpened, StartContainer, StartPod, Welcome, reply, request,
};
use crisp_shim_api::{ExitRecord, negotiate};
use crisp_sys::process::pidfd_send_signal;
use crisp_sys::terminal::set_size;
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// Containers in one pod, ended ones included: what one List can tell.
const MAX_CONTAINERS: usize = 512;

/// Exec'd processes in one pod at a time.
const MAX_EXECS: usize = 1024;

/// What is answered now; nothing when the answer comes later.
type Now = Result<Option<Answer>, RequestError>;

fn done() -> Now {
    Ok(Some(reply::Body::Done(Done {}).into()))
}

impl Shim {
    /// Does what is asked and answers, unless the answer has to wait.
    pub(crate) fn answer(&mut self, to: ReplyTo, body: request::Body, fds: Vec<OwnedFd>) {
        match self.dispatch(to, body, fds) {
            Ok(None) => {}
            Ok(Some(answer)) => self.connections.reply(to, answer),
            Err(error) => self.refuse(to, &error),
        }
    }

    fn dispatch(&mut self, to: ReplyTo, body: request::Body, fds: Vec<OwnedFd>) -> Now {
        let greeted = self.connections.has_greeted(to.connection);
        match body {
            request::Body::Hello(hello) => self.hello(to, hello),
            _ if !greeted => Err(RequestError::Invalid(
                "the first request is Hello".to_owned(),
            )),
            request::Body::StartPod(config) => self.start_pod(to, &config, fds),
            request::Body::StartContainer(start) => self.start_container(to, &start, fds),
            request::Body::Exec(exec) => self.exec(to, &exec, fds),
            request::Body::Signal(signal) => self.signal(&signal),
            request::Body::ReopenLog(reopen) => self.reopen_log(&reopen),
            request::Body::Attach(attach) => self.attach(&attach),
            request::Body::ResizeTerminal(resize) => self.resize_terminal(&resize),
            request::Body::CloseStdin(close) => self.close_stdin(&close),
            request::Body::List(_) => Ok(Some(self.list().into())),
            request::Body::RemoveContainer(remove) => self.remove_container(&remove),
            request::Body::OpenSocket(open) => self.open_socket(&open),
            request::Body::Shutdown(_) => self.begin_shutdown(to).map(|()| None),
        }
    }

    fn hello(&mut self, to: ReplyTo, hello: Hello) -> Now {
        let version = negotiate(hello.version)
            .ok_or_else(|| RequestError::Invalid("version: zero is none".to_owned()))?;
        self.connections.greeted(to.connection);
        point!("shim.greeted");
        let pause_pid = match self.pod.pause() {
            Some(pause) => pause.pid.as_raw().cast_unsigned(),
            None => 0,
        };
        let pod_exited = match self.pod {
            Pod::Exited(exited) => Some(exited),
            _ => None,
        };
        let shim_pid = std::process::id();
        let welcome = Welcome {
            version,
            shim_pid,
            pause_pid,
            pod_exited,
        };
        Ok(Some(reply::Body::Welcome(welcome).into()))
    }

    fn start_pod(&mut self, to: ReplyTo, config: &StartPod, mut fds: Vec<OwnedFd>) -> Now {
        self.require_open()?;
        match &mut self.pod {
            Pod::New => {
                let lent = fds.pop();
                let start = PodStart::begin(config, lent, to, &self.poller, &self.witness)?;
                self.pod = Pod::Starting(start);
                Ok(None)
            }
            Pod::Starting(start) => {
                start.waiters.join(to)?;
                Ok(None)
            }
            Pod::Running(pause) => Ok(Some(pause.started(&self.witness)?)),
            Pod::Exited(_) => Err(self.pod_not_running()),
        }
    }

    fn open_socket(&mut self, open: &OpenSocket) -> Now {
        let Pod::Running(pause) = &self.pod else {
            return Err(self.pod_not_running());
        };
        let socket = pause.open_socket(open.family(), &self.witness)?;
        point!("shim.socket-opened");
        let answer = Answer {
            body: reply::Body::SocketOpened(SocketOpened {}),
            fds: vec![socket],
        };
        Ok(Some(answer))
    }

    fn start_container(
        &mut self,
        to: ReplyTo,
        start: &StartContainer,
        mut fds: Vec<OwnedFd>,
    ) -> Now {
        self.require_open()?;
        if let Ok(container) = self.container_mut(&start.container_id) {
            return container.join_start(to);
        }
        let Pod::Running(pause) = &self.pod else {
            return Err(self.pod_not_running());
        };
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(RequestError::Invalid(format!(
                "the pod has {MAX_CONTAINERS} containers"
            )));
        }
        let shm = match start.pod_shm {
            true => pause.shm.mount(pause.process.pid, &self.witness),
            false => Ok(None),
        };
        let shm = shm.map_err(RequestError::internal("clone the pod's /dev/shm"))?;
        let pod = PodParts {
            paths: &self.paths,
            shm: shm.as_ref().map(AsFd::as_fd),
            pause: pause.process.pidfd.as_fd(),
        };
        let root = match start.rootfs_comes {
            true => Some(fds.pop().ok_or_else(|| {
                RequestError::Invalid("rootfs_comes: there is no descriptor".to_owned())
            })?),
            false => None,
        };
        let root = root.as_ref().map(AsFd::as_fd);
        let key = self.keys.next();
        let container = Container::begin(key, start, root, pod, to, &self.poller, &self.witness)?;
        point!("shim.container-forked");
        self.containers.insert(key, Box::new(container));
        Ok(None)
    }

    fn exec(&mut self, to: ReplyTo, request: &message::Exec, fds: Vec<OwnedFd>) -> Now {
        self.require_open()?;
        if self.execs.len() >= MAX_EXECS {
            return Err(RequestError::Invalid(format!(
                "the pod has {MAX_EXECS} exec'd processes"
            )));
        }
        let container_key = self.find_container(&request.container_id)?;
        if self.find_exec(container_key, &request.exec_id).is_ok() {
            let id = request.exec_id.clone();
            return Err(RequestError::AlreadyExists { what: "exec", id });
        }
        let key = self.keys.next();
        let container = (container_key, self.containers[&container_key].as_ref());
        let exec = Exec::begin(
            key,
            request,
            fds,
            container,
            to,
            &self.poller,
            &self.witness,
        )?;
        point!("shim.exec-forked");
        self.execs.insert(key, exec);
        Ok(None)
    }

    fn signal(&mut self, request: &message::Signal) -> Now {
        let key = self.find_container(&request.container_id)?;
        let container = &self.containers[&key];
        if request.all {
            container.cgroup.signal(request.signal);
            return done();
        }
        let pidfd = if request.exec_id.is_empty() {
            &container.require_running()?.pidfd
        } else {
            self.execs[&self.find_exec(key, &request.exec_id)?].require_running()?
        };
        match pidfd_send_signal(pidfd, request.signal) {
            Ok(()) => {
                point!("shim.signalled");
                done()
            }
            Err(Errno::ESRCH) => Err(RequestError::NotRunning {
                what: "container",
                id: container.id.clone(),
            }),
            Err(Errno::EINVAL) => Err(RequestError::Invalid(format!(
                "signal: there is no {}",
                request.signal
            ))),
            Err(errno) => Err(RequestError::internal("send the signal")(errno)),
        }
    }

    fn reopen_log(&mut self, request: &ReopenLog) -> Now {
        let container = self.container_mut(&request.container_id)?;
        container.require_running()?;
        container
            .stdio
            .log_mut()
            .reopen()
            .map_err(RequestError::internal("open the log"))?;
        point!("shim.log-reopened");
        done()
    }

    fn attach(&mut self, request: &Attach) -> Now {
        let client = self.keys.next();
        let container = self.container_mut(&request.container_id)?;
        container.require_running()?;
        let Attach {
            stdin,
            stdout,
            stderr,
            ..
        } = *request;
        let fds = container
            .stdio
            .attach(
                client,
                Wanted {
                    stdin,
                    stdout,
                    stderr,
                },
            )
            .map_err(RequestError::internal("attach"))?;
        point!("shim.attached");
        Ok(Some(Answer {
            body: reply::Body::Attached(Attached {}),
            fds,
        }))
    }

    fn resize_terminal(&mut self, request: &ResizeTerminal) -> Now {
        let key = self.find_container(&request.container_id)?;
        let terminal = if request.exec_id.is_empty() {
            self.containers[&key].stdio.terminal()
        } else {
            self.execs[&self.find_exec(key, &request.exec_id)?].terminal()
        };
        let terminal =
            terminal.ok_or_else(|| RequestError::Invalid("there is no terminal".to_owned()))?;
        let bounded = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        set_size(terminal, bounded(request.columns), bounded(request.rows))
            .map_err(RequestError::internal("set the terminal's size"))?;
        done()
    }

    fn close_stdin(&mut self, request: &CloseStdin) -> Now {
        if request.exec_id.is_empty() {
            self.container_mut(&request.container_id)?
                .stdio
                .close_stdin();
            return done();
        }
        let container = self.find_container(&request.container_id)?;
        let exec = &self.execs[&self.find_exec(container, &request.exec_id)?];
        exec.close_stdin()
            .map_err(RequestError::internal("write to the terminal"))?;
        done()
    }

    fn list(&self) -> reply::Body {
        let processes = self
            .containers
            .values()
            .filter_map(|container| container.describe())
            .collect();
        reply::Body::Processes(Processes { processes })
    }

    fn remove_container(&mut self, request: &RemoveContainer) -> Now {
        let key = self.find_container(&request.container_id)?;
        if self.containers[&key].is_starting()
            && let Some(container) = self.containers.remove(&key)
        {
            self.abandon_start(container);
            journal!("container {}: not started", request.container_id);
            return done();
        }
        if !self.containers[&key].has_ended() {
            let id = request.container_id.clone();
            return Err(RequestError::Invalid(format!(
                "container {id:?} has not ended"
            )));
        }
        ExitRecord::remove(&self.paths.exits(), &request.container_id)
            .map_err(RequestError::internal("remove the exit record"))?;
        point!("shim.record-removed");
        self.containers.remove(&key);
        journal!("container {}: removed", request.container_id);
        done()
    }

    fn require_open(&self) -> Result<(), RequestError> {
        match self.closing {
            None => Ok(()),
            Some(_) => Err(self.pod_not_running()),
        }
    }

    fn pod_not_running(&self) -> RequestError {
        RequestError::NotRunning {
            what: "pod",
            id: self.paths.runtime_dir().display().to_string(),
        }
    }

    fn find_container(&self, id: &str) -> Result<Key, RequestError> {
        self.containers
            .iter()
            .find(|(_, container)| container.id == id)
            .map(|(key, _)| *key)
            .ok_or_else(|| RequestError::NotFound {
                what: "container",
                id: id.to_owned(),
            })
    }

    fn container_mut(&mut self, id: &str) -> Result<&mut Container, RequestError> {
        let mut containers = self.containers.values_mut().map(Box::as_mut);
        containers
            .find(|container| container.id == id)
            .ok_or_else(|| RequestError::NotFound {
                what: "container",
                id: id.to_owned(),
            })
    }

    fn find_exec(&self, container: Key, id: &str) -> Result<Key, RequestError> {
        self.execs
            .iter()
            .find(|(_, exec)| exec.container == container && exec.id == id)
            .map(|(key, _)| *key)
            .ok_or_else(|| RequestError::NotFound {
                what: "exec",
                id: id.to_owned(),
            })
    }
}
