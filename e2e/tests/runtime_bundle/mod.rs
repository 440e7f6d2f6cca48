//! A bundle for the embedded runtime: a root file system of busybox, a spec that can be changed, and
//! the driver that starts it. Tests of the runtime share it.

#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]

use crisp_e2e::catalog::install_busybox;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const APPLETS: [&str; 26] = [
    "cat", "chmod", "echo", "env", "false", "grep", "hostname", "id", "kill", "ls", "mkdir",
    "mknod", "mount", "ps", "pwd", "readlink", "sh", "sleep", "stat", "stty", "test", "touch",
    "true", "tty", "umount", "uname",
];

/// What every spec has, unless a test changes it.
fn spec(arguments: &[&str]) -> Value {
    let namespaces: Vec<Value> = ["mount", "pid", "network", "ipc", "uts"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "hostname": "pod",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "cwd": "/",
            "args": arguments,
            "env": ["PATH=/bin"],
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/nothing-here"],
            "readonlyPaths": ["/proc/sys", "/proc/irq", "/proc/nothing-here"],
        },
    })
}

/// Numbers 0, 5 and 10: 0x421.
const CAPABILITIES: [&str; 3] = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// How a process went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i64>,
    pub(crate) signal: Option<i64>,
    /// What kind of error kept it from starting, and its message.
    pub(crate) failure: Option<(String, String)>,
}

impl Outcome {
    fn of(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            stdout: text("stdout"),
            stderr: text("stderr"),
            code: value["code"].as_i64(),
            signal: value["signal"].as_i64(),
            failure: value["kind"]
                .as_str()
                .map(|kind| (kind.to_owned(), text("error"))),
        }
    }

    /// The output of a process that succeeded.
    #[track_caller]
    pub(crate) fn output(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        &self.stdout
    }

    /// The message of a failed start, whose kind must be this.
    #[track_caller]
    pub(crate) fn error(&self, expected_kind: &str) -> &str {
        match &self.failure {
            Some((kind, message)) if kind == expected_kind => message,
            _ => panic!("no {expected_kind}: {self:?}"),
        }
    }
}

pub(crate) struct Bundle {
    dir: TempDir,
    pub(crate) spec: Value,
    pub(crate) job: Value,
}

impl Bundle {
    /// A container that runs a shell script.
    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) fn new(arguments: &[&str]) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the privileged tests need root: run 'sudo hack/test.sh'"
        );
        let dir = tempfile::tempdir().unwrap();
        for name in ["rootfs/etc", "rootfs/tmp", "upper", "work", "volume"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        install_busybox(&dir.path().join("rootfs"), &APPLETS)
            .expect("the busybox of the tests can be copied");
        let job = json!({
            "bundle": dir.path(),
            "overlay": {
                "lower": [dir.path().join("rootfs")],
                "upper": dir.path().join("upper"),
                "work": dir.path().join("work"),
            },
        });
        Self {
            spec: spec(arguments),
            dir,
            job,
        }
    }

    /// A path in the bundle's directory; the image's files are below `rootfs`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Whether something is in the container's writable layer.
    pub(crate) fn wrote(&self, name: &str) -> bool {
        self.path("upper").join(name).symlink_metadata().is_ok()
    }

    /// Adds a bind mount.
    pub(crate) fn bind(&mut self, source: impl AsRef<Path>, destination: &str, options: &[&str]) {
        self.mount(json!({
            "destination": destination, "type": "bind", "source": source.as_ref(), "options": options,
        }));
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Runs the image's own directory as it is, without a layer above.
    pub(crate) fn without_overlay(&mut self) {
        self.job["overlay"] = Value::Null;
    }

    pub(crate) fn namespace(&mut self, kind: &str, path: Option<&Path>) {
        let all = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != kind);
        all.push(match path {
            Some(path) => json!({ "type": kind, "path": path }),
            None => json!({ "type": kind }),
        });
    }

    pub(crate) fn without_namespace(&mut self, kind: &str) {
        let all = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != kind);
    }

    /// The process object for an exec of a shell script.
    pub(crate) fn exec_sh(&self, script: &str) -> Value {
        let mut process = self.spec["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        process
    }

    /// Runs the container to its end.
    pub(crate) fn run(&self) -> Outcome {
        self.run_all().remove(0)
    }

    /// Executes scripts in the container, which must go on by itself.
    pub(crate) fn run_exec(&mut self, processes: &[Value]) -> Vec<Outcome> {
        self.job["exec"] = processes.into();
        self.run_all().split_off(1)
    }

    fn run_all(&self) -> Vec<Outcome> {
        let job = self.write();
        let output = Command::new(DRIVER).arg(job).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        parse(&output.stdout)
    }

    /// Writes spec and job; returns the path of the latter.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.path("job.json");
        fs::write(self.path("config.json"), self.spec.to_string()).unwrap();
        let mut job = self.job.clone();
        if job["alone"].is_null() {
            job["alone"] = self.may_be_alone().into();
        }
        fs::write(&path, job.to_string()).unwrap();
        path
    }

    /// As the daemon decides it.
    fn may_be_alone(&self) -> bool {
        let namespaces = self.spec["linux"]["namespaces"].as_array().unwrap();
        let mut own = namespaces.iter().filter(|n| n["path"].is_null());
        let users = |n: &Value| n["type"] == "user";
        own.any(|n| n["type"] == "pid")
            && !namespaces.iter().any(users)
            && self.spec["hooks"].is_null()
    }
}

pub(crate) const DRIVER: &str = env!("CARGO_BIN_EXE_runtime-driver");

pub(crate) fn parse(output: &[u8]) -> Vec<Outcome> {
    let all: Vec<Value> = serde_json::from_slice(output).unwrap();
    all.iter().map(Outcome::of).collect()
}
