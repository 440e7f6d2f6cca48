//! A real shim, driven over its socket: the pause process, containers and exec'd processes, their
//! output, input and exits, and that nothing stays behind.
//!
//! Each test has a pod of its own, with its own directory and cgroups. The shim is the program that
//! `CRISP_SHIM` names, or the static build in the target directory.

use crisp_shim_api::message::{
    Attach, CloseStdin, Done, Exec, Exit, Failure, Hello, List, RemoveContainer, ReopenLog,
    ResizeTerminal, Shutdown, Signal, StartContainer, StartPod, event, failure, packet, reply,
    request,
};
use crisp_shim_api::{
    ConnectError, ExitRecord, MAX_PACKET_BYTES, PodPaths, ShimPid, VERSION, connect, recv, send,
    spawn,
};
use crisp_sys::memfd::sealed_copy;
use nix::sys::signal::kill;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn shim_program() -> &'static OwnedFd {
    static PROGRAM: LazyLock<OwnedFd> = LazyLock::new(|| {
        let target =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu");
        let path = std::env::var_os("CRISP_SHIM").map(PathBuf::from);
        let path = path
            .into_iter()
            .chain(["release", "debug"].map(|profile| target.join(profile).join("crisp-shim")))
            .find(|path| path.exists())
            .expect("crisp-shim is built: hack/build.sh");
        sealed_copy(c"crisp-shim", &mut File::open(path).unwrap()).unwrap()
    });
    &PROGRAM
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The directories of a cgroup that is the test's own, in each hierarchy that matters here.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn new(name: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let roots = if root.join("cgroup.controllers").exists() {
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
        }
        Self(dirs)
    }

    fn below(&self, name: &str) -> Vec<String> {
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
struct Daemon {
    socket: OwnedFd,
    next_id: u64,
    events: Vec<event::Body>,
}

impl Daemon {
    fn greet(socket: OwnedFd) -> (Self, reply::Body) {
        let mut daemon = Self {
            socket,
            next_id: 0,
            events: Vec::new(),
        };
        let (welcome, _) = daemon.ask(request::Body::Hello(Hello { version: VERSION }));
        (daemon, welcome)
    }

    fn ask(&mut self, body: request::Body) -> (reply::Body, Vec<OwnedFd>) {
        let id = self.begin(body);
        self.answer(id)
    }

    fn begin(&mut self, body: request::Body) -> u64 {
        self.next_id += 1;
        send(
            self.socket.as_fd(),
            &crisp_shim_api::request(self.next_id, body),
            &[],
        )
        .unwrap();
        self.next_id
    }

    fn answer(&mut self, id: u64) -> (reply::Body, Vec<OwnedFd>) {
        loop {
            let (packet, fds) = recv(self.socket.as_fd()).unwrap();
            match packet.body.unwrap() {
                packet::Body::Reply(reply) if reply.id == id => return (reply.body.unwrap(), fds),
                packet::Body::Event(event) => self.events.push(event.body.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    fn expect_done(&mut self, body: request::Body) {
        let (reply, _) = self.ask(body);
        assert_eq!(reply, reply::Body::Done(Done {}));
    }

    fn expect_failure(&mut self, body: request::Body) -> Failure {
        match self.ask(body).0 {
            reply::Body::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// The next event that satisfies a condition.
    fn event<T>(&mut self, pick: impl Fn(&event::Body) -> Option<T>) -> T {
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

    fn exit_of(&mut self, container: &str, exec: &str) -> Exit {
        self.event(|event| match event {
            event::Body::Exit(exit) if exit.container_id == container && exit.exec_id == exec => {
                Some(exit.clone())
            }
            _ => None,
        })
    }
}

/// A pod with its shim.
struct Pod {
    name: String,
    dir: tempfile::TempDir,
    paths: PodPaths,
    cgroups: Cgroups,
    shim: Pid,
    daemon: Daemon,
    pause: u32,
}

impl Pod {
    fn start(name: &str, config: StartPod) -> Self {
        let mut pod = Self::without_pause(name);
        let cgroup_dirs = pod.cgroups.below("pause");
        let (reply, fds) = pod.daemon.ask(request::Body::StartPod(StartPod {
            cgroup_dirs,
            ..config.clone()
        }));
        let reply::Body::PodStarted(started) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(fds.len(), if config.new_network { 2 } else { 0 });
        pod.pause = started.pause_pid;
        pod
    }

    fn without_pause(name: &str) -> Self {
        let name = format!("crisp-shim-test-{}-{name}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("run");
        fs::create_dir(&runtime_dir).unwrap();
        let paths = PodPaths::new(&runtime_dir);
        let cgroups = Cgroups::new(&name);
        let spawned = spawn(shim_program().as_fd(), &paths).unwrap();
        let (daemon, welcome) = Daemon::greet(spawned.connection);
        let reply::Body::Welcome(welcome) = welcome else {
            panic!("{welcome:?}")
        };
        let shim_pid = u32::try_from(spawned.pid.as_raw()).unwrap();
        assert_eq!((welcome.shim_pid, welcome.pause_pid), (shim_pid, 0));
        Self {
            name,
            dir,
            paths,
            cgroups,
            shim: spawned.pid,
            daemon,
            pause: 0,
        }
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    fn log(&self, id: &str) -> String {
        fs::read_to_string(self.log_path(id)).unwrap()
    }

    /// The log's lines without their times.
    fn log_lines(&self, id: &str) -> Vec<String> {
        let log = self.log(id);
        log.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// A request to start a container that runs a script.
    fn container(&self, id: &str, script: &str) -> StartContainer {
        self.container_with(id, &["/bin/sh", "-c", script], false)
    }

    fn container_with(&self, id: &str, args: &[&str], terminal: bool) -> StartContainer {
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

    fn run(&mut self, start: StartContainer) -> u32 {
        match self.daemon.ask(request::Body::StartContainer(start)).0 {
            reply::Body::ContainerStarted(started) => started.pid,
            other => panic!("{other:?}\n{}", self.shim_log()),
        }
    }

    fn shim_log(&self) -> String {
        fs::read_to_string(self.paths.shim_log()).unwrap()
    }

    fn exec_request(container: &str, exec: &str, script: &str) -> Exec {
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

    fn exec(&mut self, exec: Exec) -> Vec<OwnedFd> {
        match self.daemon.ask(request::Body::Exec(exec)) {
            (reply::Body::ExecStarted(_), fds) => fds,
            (other, _) => panic!("{other:?}\n{}", self.shim_log()),
        }
    }

    /// The output of a script in a container.
    fn output(&mut self, container: &str, script: &str) -> String {
        let fds = self.exec(Self::exec_request(container, "output", script));
        let output = read_all(fds.into_iter().next().unwrap());
        self.daemon.exit_of(container, "output");
        output
    }

    fn attach(&mut self, id: &str, stdin: bool) -> Vec<OwnedFd> {
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

    fn processes(&self) -> BTreeSet<i32> {
        descendants(self.shim.as_raw())
    }

    /// Shuts the shim down and checks that it leaves nothing.
    fn finish(mut self) {
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

fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    // A terminal ends with an error.
    let _ = File::from(fd).read_to_string(&mut text);
    text
}

fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// All processes below one, zombies included.
fn descendants(root: i32) -> BTreeSet<i32> {
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

fn zombies(pod: &Pod) -> Vec<i32> {
    let is_zombie = |pid: &i32| stat_fields(*pid).is_some_and(|fields| fields[0] == "Z");
    pod.processes().into_iter().filter(is_zombie).collect()
}

/// A bundle whose root has busybox, in the namespaces of a pause process.
fn make_bundle(bundle: &Path, pause: u32, args: &[&str], terminal: bool) {
    let bin = bundle.join("rootfs/bin");
    for dir in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(bundle.join("rootfs").join(dir)).unwrap();
    }
    fs::copy(crisp_e2e::catalog::busybox(), bin.join("busybox")).unwrap();
    for applet in [
        "sh", "echo", "cat", "sleep", "hostname", "stty", "yes", "head", "setsid", "ps",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
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

fn usual_pod() -> StartPod {
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

#[test]
fn privileged_pause_holds_namespaces_and_has_nothing_else() {
    let config = StartPod {
        new_pid: true,
        sysctls: [(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "7".to_owned(),
        )]
        .into(),
        ..usual_pod()
    };
    let pod = Pod::start("pause", config);
    let proc = PathBuf::from(format!("/proc/{}", pod.pause));
    for kind in ["net", "ipc", "uts", "mnt", "pid"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{kind}");
    }
    assert_eq!(fs::read_dir(proc.join("root")).unwrap().count(), 0);
    assert!(File::create(proc.join("root/x")).is_err());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            status.contains(&format!("{set}:\t0000000000000000")),
            "{status}"
        );
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    for fd in fs::read_dir(proc.join("fd")).unwrap() {
        assert_eq!(
            fs::read_link(fd.unwrap().path()).unwrap(),
            Path::new("/dev/null")
        );
    }
    let cgroup = fs::read_to_string(proc.join("cgroup")).unwrap();
    assert!(cgroup.contains(&format!("{}/pause", pod.name)), "{cgroup}");
    pod.finish();
}

#[test]
fn privileged_pod_settings_show_in_its_containers() {
    let config = StartPod {
        sysctls: [(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "7".to_owned(),
        )]
        .into(),
        ..usual_pod()
    };
    let mut pod = Pod::start("settings", config);
    pod.run(pod.container("c1", "sleep 1000"));
    assert_eq!(pod.output("c1", "hostname"), "pod-1\n");
    let sysctl = pod.output("c1", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    assert_eq!(sysctl, "7\n");
    pod.run(pod.container("c2", "echo shared > /dev/shm/x; sleep 1000"));
    until("the file in /dev/shm", || {
        pod.output("c1", "cat /dev/shm/x") == "shared\n"
    });
    pod.finish();
}

#[test]
fn privileged_pod_is_refused_what_reaches_the_host() {
    let mut pod = Pod::without_pause("refused");
    for sysctl in [
        "kernel.core_pattern",
        "net/../kernel/core_pattern",
        "vm.swappiness",
    ] {
        let sysctls = [(sysctl.to_owned(), "1".to_owned())].into();
        let failure = pod.daemon.expect_failure(request::Body::StartPod(StartPod {
            sysctls,
            ..usual_pod()
        }));
        assert_eq!(failure.kind(), failure::Kind::Invalid, "{failure:?}");
    }
    let cgroup_dirs = vec!["/sys/fs/cgroup/nonexistent".to_owned()];
    let failure = pod.daemon.expect_failure(request::Body::StartPod(StartPod {
        cgroup_dirs,
        ..usual_pod()
    }));
    assert!(
        failure.message.contains("/sys/fs/cgroup/nonexistent"),
        "{failure:?}"
    );
    let (started, _) = pod.daemon.ask(request::Body::StartPod(usual_pod()));
    let again = pod.daemon.ask(request::Body::StartPod(usual_pod()));
    assert_eq!(again.0, started);
    assert_eq!(again.1.len(), 2);
    pod.finish();
}

#[test]
fn privileged_pod_in_a_user_namespace_starts() {
    let map = crisp_shim_api::message::IdMap {
        container_id: 0,
        host_id: 100_000,
        length: 65_536,
    };
    let config = StartPod {
        uid_map: vec![map],
        gid_map: vec![map],
        new_pid: true,
        ..usual_pod()
    };
    let pod = Pod::start("userns", config);
    let status = fs::read_to_string(format!("/proc/{}/status", pod.pause)).unwrap();
    assert!(
        status.contains("Uid:\t100000\t100000\t100000\t100000"),
        "{status}"
    );
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
    pod.finish();
}

#[test]
fn privileged_container_output_is_logged_and_its_exit_recorded() {
    let mut pod = Pod::start("output", usual_pod());
    let start = pod.container("c1", "echo out; echo err >&2; echo -n unfinished; exit 3");
    let pid = pod.run(start.clone());
    let exit = pod.daemon.exit_of("c1", "");
    assert_eq!(
        (exit.code, exit.signal, exit.pid, exit.oom_killed),
        (3, 0, pid, false)
    );
    assert_eq!(
        ExitRecord::read(&pod.paths.exits(), "c1").unwrap(),
        Some(exit.clone())
    );
    let mut lines = pod.log_lines("c1");
    lines.sort();
    assert_eq!(
        lines,
        ["stderr F err", "stdout F out", "stdout P unfinished"]
    );
    let (reply, _) = pod.daemon.ask(request::Body::List(List {}));
    let reply::Body::Processes(list) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(list.processes[0].exit, Some(exit));
    let failure = pod
        .daemon
        .expect_failure(request::Body::StartContainer(start));
    assert_eq!(failure.kind(), failure::Kind::AlreadyExists);
    let remove = RemoveContainer {
        container_id: "c1".to_owned(),
    };
    pod.daemon
        .expect_done(request::Body::RemoveContainer(remove.clone()));
    assert_eq!(ExitRecord::read_all(&pod.paths.exits()).unwrap(), []);
    let failure = pod
        .daemon
        .expect_failure(request::Body::RemoveContainer(remove));
    assert_eq!(failure.kind(), failure::Kind::NotFound);
    pod.finish();
}

#[test]
fn privileged_log_takes_a_flood_whole_and_reopens() {
    let mut pod = Pod::start("flood", usual_pod());
    let mut start = pod.container(
        "c1",
        "head -c 3000000 /dev/zero; echo; yes line | head -n 200000; cat; echo end",
    );
    start.stdin = true;
    pod.run(start);
    until("the flood", || pod.log("c1").lines().count() >= 200_184);
    fs::rename(pod.log_path("c1"), pod.log_path("rotated")).unwrap();
    pod.daemon.expect_done(request::Body::ReopenLog(ReopenLog {
        container_id: "c1".to_owned(),
    }));
    pod.daemon
        .expect_done(request::Body::CloseStdin(CloseStdin {
            container_id: "c1".to_owned(),
            exec_id: String::new(),
        }));
    assert_eq!(pod.daemon.exit_of("c1", "").code, 0);
    assert_eq!(pod.log_lines("c1"), ["stdout F end"]);
    let rotated = pod.log_lines("rotated");
    let zeroes = rotated
        .iter()
        .filter(|line| line.starts_with("stdout P"))
        .count();
    assert_eq!(zeroes, 3_000_000 / 16_384);
    assert_eq!(
        rotated
            .iter()
            .filter(|line| *line == "stdout F line")
            .count(),
        200_000
    );
    pod.finish();
}

#[test]
fn privileged_vanished_log_directory_does_not_stop_the_container() {
    let mut pod = Pod::start("vanished", usual_pod());
    let mut start = pod.container(
        "c1",
        "for i in 1 2 3; do yes | head -c 200000; done; echo done >&2",
    );
    let logs = pod.dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    start.log_path = logs.join("c1.log").to_str().unwrap().to_owned();
    start.stdin = true;
    pod.run(start);
    fs::remove_dir_all(&logs).unwrap();
    assert_eq!(pod.daemon.exit_of("c1", "").code, 0);
    pod.finish();
}

#[test]
fn privileged_start_of_what_cannot_be_executed_is_told() {
    let mut pod = Pod::start("not-executable", usual_pod());
    let start = pod.container_with("c1", &["/bin/nope"], false);
    let failure = pod
        .daemon
        .expect_failure(request::Body::StartContainer(start));
    assert_eq!(failure.kind(), failure::Kind::NotExecutable, "{failure:?}");
    assert!(failure.message.contains("/bin/nope"), "{failure:?}");
    pod.run(pod.container("c2", "sleep 1000"));
    let mut exec = Pod::exec_request("c2", "e1", "");
    exec.process_json =
        br#"{"args":["nope"],"cwd":"/","user":{"uid":0,"gid":0},"env":["PATH=/bin"]}"#.to_vec();
    let failure = pod.daemon.expect_failure(request::Body::Exec(exec));
    assert_eq!(failure.kind(), failure::Kind::NotExecutable, "{failure:?}");
    let (reply, _) = pod.daemon.ask(request::Body::List(List {}));
    let reply::Body::Processes(list) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(list.processes.len(), 1);
    until("the failed starts to be reaped", || {
        zombies(&pod).is_empty()
    });
    pod.finish();
}

#[test]
fn privileged_exec_has_its_own_streams_and_exit_code() {
    let mut pod = Pod::start("exec", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let exec = Exec {
        stdin: true,
        ..Pod::exec_request("c1", "e1", "cat; echo err >&2; exit 7")
    };
    let mut fds = pod.exec(exec).into_iter();
    let mut stdin = File::from(fds.next().unwrap());
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    assert_eq!(read_all(fds.next().unwrap()), "through");
    assert_eq!(read_all(fds.next().unwrap()), "err\n");
    assert_eq!(pod.daemon.exit_of("c1", "e1").code, 7);
    assert_eq!(ExitRecord::read_all(&pod.paths.exits()).unwrap(), []);
    assert!(pod.log("c1").is_empty());
    pod.finish();
}

#[test]
fn privileged_exec_on_a_terminal_can_be_resized_and_ended() {
    let mut pod = Pod::start("exec-terminal", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let exec = Exec {
        terminal: true,
        ..Pod::exec_request("c1", "e1", "cat; stty size")
    };
    let mut fds = pod.exec(exec).into_iter();
    let target = |columns, rows| ResizeTerminal {
        container_id: "c1".to_owned(),
        exec_id: "e1".to_owned(),
        columns,
        rows,
    };
    pod.daemon
        .expect_done(request::Body::ResizeTerminal(target(132, 43)));
    pod.daemon
        .expect_done(request::Body::CloseStdin(CloseStdin {
            container_id: "c1".to_owned(),
            exec_id: "e1".to_owned(),
        }));
    assert_eq!(pod.daemon.exit_of("c1", "e1").code, 0);
    let output = read_all(fds.next().unwrap());
    assert!(output.ends_with("43 132\r\n"), "{output:?}");
    pod.finish();
}

#[test]
fn privileged_exec_timeout_kills_what_was_started_and_spares_the_rest() {
    let mut pod = Pod::start("exec-timeout", usual_pod());
    // An init that reaps what it is left.
    pod.run(pod.container("c1", "sleep 1000 & wait"));
    let script = "(sleep 2000 & exec sleep 2000) & setsid sleep 2000 & echo started; sleep 2000";
    let exec = Exec {
        timeout_ms: 300,
        ..Pod::exec_request("c1", "e1", script)
    };
    let fds = pod.exec(exec);
    let exit = pod.daemon.exit_of("c1", "e1");
    assert!(exit.timed_out, "{exit:?}");
    assert_eq!(exit.signal, 9);
    // All who held the pipe are gone.
    assert_eq!(read_all(fds.into_iter().next().unwrap()), "started\n");
    let sleepers = pod.output("c1", "ps");
    assert!(
        sleepers.contains("sleep 1000") && !sleepers.contains("sleep 2000"),
        "{sleepers}"
    );
    until("the killed to be reaped", || zombies(&pod).is_empty());
    pod.finish();
}

#[test]
fn privileged_daemon_that_is_gone_is_not_missed() {
    let mut pod = Pod::start("no-daemon", usual_pod());
    let fifo = pod.dir.path().join("c1/rootfs/tmp/go");
    let start = pod.container("c1", "cat /tmp/go; echo without a daemon; exit 5");
    mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    pod.run(start);
    let exec = Exec {
        timeout_ms: 200,
        ..Pod::exec_request("c1", "e1", "sleep 2000")
    };
    drop(pod.exec(exec));
    let (socket, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut pod.daemon.socket, socket.into()));
    until("the exec's timeout", || {
        pod.shim_log().contains("timeout true")
    });
    fs::write(&fifo, "go\n").unwrap();
    until("the record", || {
        ExitRecord::read(&pod.paths.exits(), "c1")
            .unwrap()
            .is_some()
    });
    assert_eq!(
        pod.log_lines("c1"),
        ["stdout F go", "stdout F without a daemon"]
    );
    let (daemon, welcome) = Daemon::greet(connect(&pod.paths).unwrap());
    pod.daemon = daemon;
    let reply::Body::Welcome(welcome) = welcome else {
        panic!("{welcome:?}")
    };
    assert_eq!(welcome.pause_pid, pod.pause);
    let (reply, _) = pod.daemon.ask(request::Body::List(List {}));
    let reply::Body::Processes(list) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(list.processes[0].exit.as_ref().unwrap().code, 5);
    pod.finish();
}

#[test]
fn privileged_garbage_costs_its_sender_the_connection_and_nobody_else() {
    let mut pod = Pod::start("garbage", usual_pod());
    let other = connect(&pod.paths).unwrap();
    crisp_sys::socket::send(
        other.as_fd(),
        b"garbage",
        &[],
        crisp_sys::socket::Wait::Block,
    )
    .unwrap();
    assert!(recv(other.as_fd()).is_err());
    let silent = connect(&pod.paths).unwrap();
    let list = crisp_shim_api::request(1, request::Body::List(List {}));
    send(silent.as_fd(), &list, &[]).unwrap();
    let (packet, _) = recv(silent.as_fd()).unwrap();
    let Some(packet::Body::Reply(reply)) = packet.body else {
        panic!("{packet:?}")
    };
    assert!(
        matches!(reply.body, Some(reply::Body::Failure(_))),
        "{reply:?}"
    );
    pod.daemon.ask(request::Body::List(List {}));
    pod.finish();
}

#[test]
fn privileged_attached_clients_see_output_and_one_that_stalls_is_let_go() {
    let mut pod = Pod::start("attach", usual_pod());
    let mut start = pod.container("c1", "cat; yes | head -c 4000000; echo end; cat");
    start.stdin = true;
    pod.run(start);
    let stalled = pod.attach("c1", false);
    let mut fds = pod.attach("c1", true).into_iter();
    let mut stdin = UnixStream::from(fds.next().unwrap());
    let mut stdout = File::from(fds.next().unwrap());
    stdin.write_all(b"hello\n").unwrap();
    let mut echoed = [0; 6];
    stdout.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello\n");
    drop((stdin, stdout));
    pod.daemon
        .expect_done(request::Body::CloseStdin(CloseStdin {
            container_id: "c1".to_owned(),
            exec_id: String::new(),
        }));
    let exit = pod.daemon.exit_of("c1", "");
    assert_eq!(exit.code, 0);
    assert_eq!(pod.log_lines("c1").last().unwrap(), "stdout F end");
    let output = read_all(stalled.into_iter().next().unwrap());
    assert!(
        output.starts_with("hello\ny\n") && output.len() < 4_000_000,
        "{}",
        output.len()
    );
    pod.finish();
}

#[test]
fn privileged_stdin_once_ends_with_its_first_client() {
    let mut pod = Pod::start("stdin-once", usual_pod());
    for (id, terminal) in [("pipe", false), ("terminal", true)] {
        let mut start = pod.container_with(id, &["/bin/sh", "-c", "cat; echo end"], terminal);
        start.stdin = true;
        start.stdin_once = true;
        pod.run(start);
        let mut fds = pod.attach(id, true).into_iter();
        let mut stdin = UnixStream::from(fds.next().unwrap());
        stdin.write_all(b"line\n").unwrap();
        drop(stdin);
        let output = read_all(fds.next().unwrap());
        assert_eq!(pod.daemon.exit_of(id, "").code, 0);
        assert!(
            output.contains("line") && output.contains("end"),
            "{output:?}"
        );
    }
    assert_eq!(pod.log_lines("pipe"), ["stdout F line", "stdout F end"]);
    pod.finish();
}

/// In the pod's shared pid namespace, where the kernel does not end the rest by itself.
#[test]
fn privileged_end_of_a_container_is_the_end_of_all_it_started() {
    let shared = StartPod {
        new_pid: true,
        ..usual_pod()
    };
    let mut pod = Pod::start("orphans", shared);
    for unified in [false, true] {
        let id = format!("c-{unified}");
        let script = "(setsid sleep 2000 &) ; (sleep 2000 & exit); echo up; exit 0";
        let mut start = pod.container(&id, script);
        start
            .cgroup_dirs
            .retain(|dir| dir.contains("/unified/") == unified);
        if start.cgroup_dirs.is_empty() {
            continue;
        }
        let config = pod.dir.path().join(&id).join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        let mut spec: serde_json::Value = serde_json::from_str(&text).unwrap();
        spec["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{}/ns/pid", pod.pause));
        fs::write(&config, spec.to_string()).unwrap();
        pod.run(start);
        assert_eq!(pod.daemon.exit_of(&id, "").code, 0);
        let pause = i32::try_from(pod.pause).unwrap();
        let runs = |pid: &i32| stat_fields(*pid).is_some_and(|fields| fields[0] != "Z");
        let left: Vec<i32> = pod.processes().into_iter().filter(runs).collect();
        assert_eq!(left, [pause]);
        until("orphans to be reaped", || zombies(&pod).is_empty());
    }
    pod.finish();
}

#[test]
fn privileged_death_of_the_shim_is_that_of_pause() {
    let mut pod = Pod::start("shim-death", usual_pod());
    kill(pod.shim, nix::sys::signal::SIGKILL).unwrap();
    waitpid(pod.shim, None).unwrap();
    pod.shim = Pid::from_raw(0);
    let pause = format!("/proc/{}", pod.pause);
    until("pause to end", || !Path::new(&pause).exists());
    assert!(matches!(
        connect(&pod.paths),
        Err(ConnectError::NotListening)
    ));
    let recorded = ShimPid::read(&pod.paths).unwrap().unwrap();
    assert!(!recorded.is_alive());
    let spawned = spawn(shim_program().as_fd(), &pod.paths).unwrap();
    pod.shim = spawned.pid;
    pod.daemon = Daemon::greet(spawned.connection).0;
    pod.finish();
}

#[test]
fn privileged_exec_takes_a_long_environment_from_a_file() {
    let mut pod = Pod::start("exec-file", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let long = "x".repeat(MAX_PACKET_BYTES / 2);
    let process = json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", "echo ${#A} ${#B} ${#C}"],
        "env": [format!("A={long}"), format!("B={long}"), format!("C={long}"), "PATH=/bin"],
        "cwd": "/",
    });
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(process.to_string().as_bytes()).unwrap();
    let exec = Exec {
        process_json: Vec::new(),
        ..Pod::exec_request("c1", "e1", "")
    };
    let request = crisp_shim_api::request(1000, request::Body::Exec(exec));
    send(pod.daemon.socket.as_fd(), &request, &[file.as_fd()]).unwrap();
    let (reply, fds) = pod.daemon.answer(1000);
    assert!(matches!(reply, reply::Body::ExecStarted(_)), "{reply:?}");
    assert_eq!(
        read_all(fds.into_iter().next().unwrap()),
        "65536 65536 65536\n"
    );
    assert_eq!(pod.daemon.exit_of("c1", "e1").code, 0);
    pod.finish();
}

#[test]
fn privileged_signals_reach_whom_they_are_for() {
    let mut pod = Pod::start("signals", usual_pod());
    pod.run(pod.container("c1", "trap 'exit 9' TERM; while :; do sleep 0.01; done"));
    let signal = |id: &str, signal| {
        request::Body::Signal(Signal {
            container_id: id.to_owned(),
            signal,
            ..Signal::default()
        })
    };
    let failure = pod.daemon.expect_failure(signal("c1", 1000));
    assert_eq!(failure.kind(), failure::Kind::Invalid);
    std::thread::sleep(Duration::from_millis(100));
    pod.daemon.expect_done(signal("c1", 15));
    assert_eq!(pod.daemon.exit_of("c1", "").code, 9);
    let failure = pod.daemon.expect_failure(signal("c1", 15));
    assert_eq!(failure.kind(), failure::Kind::NotRunning);
    pod.run(pod.container("c2", "sleep 1000"));
    pod.daemon.expect_done(signal("c2", 9));
    assert_eq!(pod.daemon.exit_of("c2", "").signal, 9);
    pod.finish();
}

#[test]
fn privileged_oom_kill_is_told() {
    let mut pod = Pod::start("oom", usual_pod());
    let start = pod.container(
        "c1",
        "cat /dev/zero | head -c 100000000 | busybox tail; exit 1",
    );
    for dir in &start.cgroup_dirs {
        for file in ["memory.limit_in_bytes", "memory.max"] {
            if Path::new(dir).join(file).exists() {
                fs::write(Path::new(dir).join(file), "16777216").unwrap();
            }
        }
    }
    pod.run(start);
    let exit = pod.daemon.exit_of("c1", "");
    assert!(exit.oom_killed, "{exit:?}");
    pod.finish();
}

#[test]
fn privileged_death_of_pause_is_told_and_containers_go_on() {
    let mut pod = Pod::start("pause-death", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let pause = Pid::from_raw(i32::try_from(pod.pause).unwrap());
    kill(pause, nix::sys::signal::SIGKILL).unwrap();
    let exited = pod.daemon.event(|event| match event {
        event::Body::PodExited(exited) => Some(*exited),
        event::Body::Exit(_) => None,
    });
    assert_eq!(exited.signal, 9);
    assert_eq!(pod.output("c1", "echo alive"), "alive\n");
    let (_, welcome) = Daemon::greet(connect(&pod.paths).unwrap());
    let reply::Body::Welcome(welcome) = welcome else {
        panic!("{welcome:?}")
    };
    assert_eq!((welcome.pause_pid, welcome.pod_exited), (0, Some(exited)));
    pod.finish();
}

/// Fields of proc_pid_smaps_rollup in KiB.
fn memory_kib(pid: u32, field: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn privileged_idle_shims_and_pauses_are_small() {
    const PODS: usize = 16;
    const MAX_OWN_KIB: u64 = 128;
    let mut pods: Vec<Pod> = (0..PODS)
        .map(|number| Pod::start(&format!("memory-{number}"), usual_pod()))
        .collect();
    for pod in &mut pods {
        pod.run(pod.container("c1", "yes | head -c 1000000; exec sleep 1000"));
        until("the log", || pod.log("c1").lines().count() == 500_000);
        assert_eq!(pod.output("c1", "echo exec"), "exec\n");
    }
    for pod in &pods {
        let shim = u32::try_from(pod.shim.as_raw()).unwrap();
        for (name, pid) in [("shim", shim), ("pause", pod.pause)] {
            let (pss, own) = (memory_kib(pid, "Pss:"), memory_kib(pid, "Anonymous:"));
            eprintln!("{name}: {pss} KiB PSS with {PODS} pods, {own} KiB of it its own");
            assert!(own < MAX_OWN_KIB, "{name}: {own} KiB");
        }
    }
    pods.into_iter().for_each(Pod::finish);
}
