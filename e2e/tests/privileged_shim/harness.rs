//! A pod with a shim of its own, a connection to it, and what the kernel says about both.

use crisp_e2e::catalog::install_busybox;
use crisp_e2e::cgroups_are_v2;
use crisp_shim_api::message::{
    Attach, Done, Exec, Exit, Failure, Hello, Shutdown, StartContainer, StartPod, event, packet,
    reply, request,
};
use crisp_shim_api::{PodPaths, VERSION, listen, recv, send};
use crisp_sys::sealed::{ProgramCopy, SealedProgram};
use nix::sys::signal::kill;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn shim_program() -> &'static SealedProgram {
    static PROGRAM: LazyLock<SealedProgram> = LazyLock::new(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let built = [
            "dist",
            "x86_64-unknown-linux-gnu/release",
            "x86_64-unknown-linux-gnu/debug",
        ];
        let path = std::env::var_os("CRISP_SHIM").map(PathBuf::from);
        let path = path
            .into_iter()
            .chain(built.map(|dir| target.join(dir).join("crisp-shim")))
            .find(|path| path.exists())
            .expect("crisp-shim is built: hack/build.sh");
        let copy = ProgramCopy::new("crisp-shim", &mut File::open(path).unwrap()).unwrap();
        copy.seal().unwrap()
    });
    &PROGRAM
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The directories of a cgroup that is the test's own, in each hierarchy that matters here.
pub(crate) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    pub(crate) fn new(name: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let roots = if cgroups_are_v2() {
            vec![root.to_owned()]
        } else {
            ["memory", "pids", "freezer", "unified"]
                .map(|controller| root.join(controller))
                .into_iter()
                .filter(|dir| dir.exists())
                .collect()
        };
        let dirs: Vec<PathBuf> = roots.into_iter().map(|root| root.join(name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).expect("these tests need root");
            // Refused where version 1 has these controllers.
            let _ = fs::write(dir.join("cgroup.subtree_control"), "+memory +pids");
        }
        Self(dirs)
    }

    pub(crate) fn below(&self, name: &str) -> Vec<String> {
        let dirs = self.0.iter().map(|dir| dir.join(name));
        dirs.map(|dir| {
            fs::create_dir_all(&dir).unwrap();
            dir.to_str().unwrap().to_owned()
        })
        .collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in &self.0 {
            let children = fs::read_dir(dir).into_iter().flatten().flatten();
            for child in children.filter(|entry| entry.path().is_dir()) {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

/// A connection to a shim.
pub(crate) struct Daemon {
    pub(crate) socket: OwnedFd,
    pub(crate) next_id: u64,
    pub(crate) events: Vec<event::Body>,
}

impl Daemon {
    pub(crate) fn greet(socket: OwnedFd) -> (Self, reply::Body) {
        let mut daemon = Self {
            socket,
            next_id: 0,
            events: Vec::new(),
        };
        let (welcome, _) = daemon.ask(request::Body::Hello(Hello { version: VERSION }));
        (daemon, welcome)
    }

    pub(crate) fn ask(&mut self, body: request::Body) -> (reply::Body, Vec<OwnedFd>) {
        self.ask_with(body, &[])
    }

    pub(crate) fn ask_with(
        &mut self,
        body: request::Body,
        fds: &[BorrowedFd<'_>],
    ) -> (reply::Body, Vec<OwnedFd>) {
        self.next_id += 1;
        let request = crisp_shim_api::request(self.next_id, body);
        send(self.socket.as_fd(), &request, fds).unwrap();
        self.answer(self.next_id)
    }

    pub(crate) fn answer(&mut self, id: u64) -> (reply::Body, Vec<OwnedFd>) {
        loop {
            let (packet, fds) = recv(self.socket.as_fd()).unwrap();
            match packet.body.unwrap() {
                packet::Body::Reply(reply) if reply.id == id => return (reply.body.unwrap(), fds),
                packet::Body::Event(event) => self.events.push(event.body.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn expect_done(&mut self, body: request::Body) {
        let (reply, _) = self.ask(body);
        assert_eq!(reply, reply::Body::Done(Done {}));
    }

    pub(crate) fn expect_failure(&mut self, body: request::Body) -> Failure {
        match self.ask(body).0 {
            reply::Body::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// The next event that satisfies a condition.
    pub(crate) fn event<T>(&mut self, pick: impl Fn(&event::Body) -> Option<T>) -> T {
        loop {
            if let Some(index) = self.events.iter().position(|event| pick(event).is_some()) {
                return pick(&self.events.remove(index)).unwrap();
            }
            let (packet, _) = recv(self.socket.as_fd()).unwrap();
            match packet.body.unwrap() {
                packet::Body::Event(event) => self.events.push(event.body.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn exit_of(&mut self, container: &str, exec: &str) -> Exit {
        self.event(|event| match event {
            event::Body::Exit(exit) if exit.container_id == container && exit.exec_id == exec => {
                Some(exit.clone())
            }
            _ => None,
        })
    }
}

/// A pod with its shim.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) paths: PodPaths,
    pub(crate) cgroups: Cgroups,
    pub(crate) shim: Pid,
    pub(crate) daemon: Daemon,
    pub(crate) pause: u32,
    /// The mount namespace of pause, if other pods may share it.
    pub(crate) lent_mounts: Option<OwnedFd>,
}

impl Pod {
    pub(crate) fn start(name: &str, config: StartPod) -> Self {
        Self::start_in(name, config, None)
    }

    /// Starts a pod whose pause shares the mount namespace of another's.
    pub(crate) fn start_in(name: &str, config: StartPod, mounts: Option<BorrowedFd<'_>>) -> Self {
        let mut pod = Self::without_pause(name);
        let start = StartPod {
            cgroup_dirs: pod.cgroups.below("pause"),
            ..config.clone()
        };
        let start = request::Body::StartPod(start);
        let (reply, mut fds) = pod.daemon.ask_with(start, mounts.as_slice());
        let reply::Body::PodStarted(started) = reply else {
            panic!("{reply:?}")
        };
        if started.lends_mounts {
            pod.lent_mounts = fds.pop();
        }
        assert_eq!(fds.len(), if config.new_network { 2 } else { 0 });
        pod.pause = started.pause_pid;
        // It is told as started a moment before.
        let command_line = format!("/proc/{}/cmdline", pod.pause);
        until("pause to execute", || {
            fs::read(&command_line).is_ok_and(|line| line.starts_with(b"crisp-shim\0pause\0"))
        });
        pod
    }

    pub(crate) fn without_pause(name: &str) -> Self {
        let name = format!("crisp-shim-test-{}-{name}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("run");
        fs::create_dir(&runtime_dir).unwrap();
        let paths = PodPaths::new(&runtime_dir);
        let cgroups = Cgroups::new(&name);
        let (listener, connection) = listen(&paths).unwrap();
        let shim = listener.spawn(shim_program().as_fd()).unwrap();
        let (daemon, welcome) = Daemon::greet(connection);
        let reply::Body::Welcome(welcome) = welcome else {
            panic!("{welcome:?}")
        };
        let shim_pid = u32::try_from(shim.as_raw()).unwrap();
        assert_eq!((welcome.shim_pid, welcome.pause_pid), (shim_pid, 0));
        Self {
            name,
            dir,
            paths,
            cgroups,
            shim,
            daemon,
            pause: 0,
            lent_mounts: None,
        }
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    pub(crate) fn log(&self, id: &str) -> String {
        fs::read_to_string(self.log_path(id)).unwrap()
    }

    /// The log's lines without their times.
    pub(crate) fn log_lines(&self, id: &str) -> Vec<String> {
        let log = self.log(id);
        log.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// A request to start a container that runs a script.
    pub(crate) fn container(&self, id: &str, script: &str) -> StartContainer {
        self.container_with(id, &["/bin/sh", "-c", script], false)
    }

    pub(crate) fn container_with(&self, id: &str, args: &[&str], terminal: bool) -> StartContainer {
        let bundle = self.dir.path().join(id);
        make_bundle(&bundle, self.pause, args, terminal);
        StartContainer {
            container_id: id.to_owned(),
            bundle_dir: bundle.to_str().unwrap().to_owned(),
            cgroup_dirs: self.cgroups.below(id),
            log_path: self.log_path(id).to_str().unwrap().to_owned(),
            terminal,
            pod_shm: true,
            ..StartContainer::default()
        }
    }

    pub(crate) fn run(&mut self, start: StartContainer) -> u32 {
        match self.daemon.ask(request::Body::StartContainer(start)).0 {
            reply::Body::ContainerStarted(started) => started.pid,
            other => panic!("{other:?}\n{}", self.shim_log()),
        }
    }

    pub(crate) fn shim_log(&self) -> String {
        fs::read_to_string(self.paths.shim_log()).unwrap()
    }

    pub(crate) fn exec_request(container: &str, exec: &str, script: &str) -> Exec {
        let process = json!({
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        });
        Exec {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            process_json: process.to_string().into_bytes(),
            ..Exec::default()
        }
    }

    pub(crate) fn exec(&mut self, exec: Exec) -> Vec<OwnedFd> {
        match self.daemon.ask(request::Body::Exec(exec)) {
            (reply::Body::ExecStarted(_), fds) => fds,
            (other, _) => panic!("{other:?}\n{}", self.shim_log()),
        }
    }

    /// The output of a script in a container.
    pub(crate) fn output(&mut self, container: &str, script: &str) -> String {
        let fds = self.exec(Self::exec_request(container, "output", script));
        let output = read_all(fds.into_iter().next().unwrap());
        self.daemon.exit_of(container, "output");
        output
    }

    pub(crate) fn attach(&mut self, id: &str, stdin: bool) -> Vec<OwnedFd> {
        let attach = Attach {
            container_id: id.to_owned(),
            stdin,
            stdout: true,
            stderr: true,
        };
        match self.daemon.ask(request::Body::Attach(attach)) {
            (reply::Body::Attached(_), fds) => fds,
            (other, _) => panic!("{other:?}"),
        }
    }

    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        descendants(self.shim.as_raw())
    }

    /// Shuts the shim down and checks that it leaves nothing.
    pub(crate) fn finish(mut self) {
        let processes = self.processes();
        self.daemon
            .expect_done(request::Body::Shutdown(Shutdown {}));
        assert_eq!(
            waitpid(self.shim, None),
            Ok(WaitStatus::Exited(self.shim, 0))
        );
        for pid in processes {
            assert!(
                !Path::new(&format!("/proc/{pid}")).exists(),
                "{pid} is left"
            );
        }
        self.shim = Pid::from_raw(0);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.shim.as_raw() == 0 {
            return;
        }
        eprintln!("{}: {}", self.name, self.shim_log());
        let processes = self.processes();
        for pid in processes.into_iter().chain([self.shim.as_raw()]) {
            let _ = kill(Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        let _ = waitpid(self.shim, None);
    }
}

pub(crate) fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    // A terminal ends with an error.
    let _ = File::from(fd).read_to_string(&mut text);
    text
}

pub(crate) fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// All processes below one, zombies included.
pub(crate) fn descendants(root: i32) -> BTreeSet<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = pids
        .filter_map(|pid| Some((pid, stat_fields(pid)?[1].parse().ok()?)))
        .collect();
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, p)| found.contains(p))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            found.remove(&root);
            return found;
        }
    }
}

pub(crate) fn zombies(pod: &Pod) -> Vec<i32> {
    let is_zombie = |pid: &i32| stat_fields(*pid).is_some_and(|fields| fields[0] == "Z");
    pod.processes().into_iter().filter(is_zombie).collect()
}

/// A bundle whose root has busybox, in the namespaces of a pause process.
pub(crate) fn make_bundle(bundle: &Path, pause: u32, args: &[&str], terminal: bool) {
    let root = bundle.join("rootfs");
    for dir in ["proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let applets = [
        "sh", "echo", "cat", "sleep", "hostname", "stty", "yes", "head", "setsid", "ps",
    ];
    install_busybox(&root, &applets).unwrap();
    let namespace =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pause}/ns/{file}")});
    let config = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "mount"},
                namespace("uts", "uts"),
                namespace("ipc", "ipc"),
                namespace("network", "net"),
            ],
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
}

pub(crate) fn usual_pod() -> StartPod {
    StartPod {
        hostname: "pod-1".to_owned(),
        new_network: true,
        new_ipc: true,
        new_uts: true,
        shm_size_bytes: 64 << 20,
        oom_score_adj: -998,
        ..StartPod::default()
    }
}
