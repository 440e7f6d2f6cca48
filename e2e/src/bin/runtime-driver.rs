//! Drives the embedded runtime for its tests, which have many threads: starts the container that a
//! job describes, executes more processes in it, and prints how all of that ended.
//!
//! Usage: `runtime-driver JOB`, where JOB is a JSON file:
//!
//! ```json
//! { "bundle": "/dir", "overlay": { "lower": ["/dir"], "upper": "/dir", "work": "/dir" },
//!   "cgroups": ["/dir"], "alone": true, "terminal": false, "seccomp": [0], "shm": false,
//!   "exec": [ { "args": ["sh"] } ] }
//! ```
//!
//! `shm` is true for a new tmpfs, or the path of one. With `abandon` the start is given up at once.
//! With `exec` (OCI `process` objects), the container is killed when they have ended. One line of JSON
//! comes out: an array of how the container and the processes went.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "the result is for the test that reads it"
)]

use anyhow::{Context, Result};
use crisp_runtime::{
    ContainerPlan, ExecPlan, Overlay, Rootfs, SeccompFilter, StartError, Started, Starting, Stdio,
    WindowSize, exec, start,
};
use crisp_sys::mount::{Attributes, FsContext, Recursion, clone_mount};
use crisp_sys::process::{self, ExitStatus, SingleThreaded, set_child_subreaper, try_reap};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;

fn main() -> Result<()> {
    let witness = SingleThreaded::verify()?;
    set_child_subreaper()?;
    let job = std::env::args_os()
        .nth(1)
        .context("usage: runtime-driver JOB")?;
    let job: Value = serde_json::from_reader(File::open(job)?)?;
    println!("{}", run(&job, &witness)?);
    Ok(())
}

fn run(job: &Value, witness: &SingleThreaded) -> Result<Value> {
    let layers = Layers::of(job);
    let cgroups = paths(&job["cgroups"]);
    let seccomp = bytes(&job["seccomp"]);
    let shm = match &job["shm"] {
        Value::Bool(true) => Some(FsContext::open("tmpfs")?.mount(Attributes::NONE)?),
        Value::String(path) => Some(clone_mount(Path::new(path), Recursion::This)?),
        _ => None,
    };
    let (stdio, output) = stdio(job["terminal"] == true)?;
    let plan = ContainerPlan {
        id: "driven",
        bundle: Path::new(text(&job["bundle"])),
        rootfs: layers.as_ref().map_or(Rootfs::Directory, Layers::rootfs),
        cgroup_dirs: &cgroups,
        stdio,
        seccomp: filter(&seccomp),
        shm: shm.as_ref().map(AsFd::as_fd),
        mounts_from: None,
        alone: job["alone"] == true,
    };
    let mut starting = start(plan, witness)?;
    if job["abandon"] == true {
        starting.abandon();
        return wait_for_all();
    }
    let init = match finish(starting)? {
        Ok(started) => started,
        Err(error) => return Ok(json!([failure(&error)])),
    };
    let executed = execute_all(job, &init, &cgroups, &seccomp, witness)?;
    if !executed.is_empty() {
        process::kill(&init.pidfd);
    }
    let mut all = vec![outcome(init, output)?];
    all.extend(executed);
    Ok(all.into())
}

/// Waits until there is no child left.
fn wait_for_all() -> Result<Value> {
    loop {
        match nix::sys::wait::wait() {
            Err(nix::errno::Errno::ECHILD) => return Ok(json!([{}])),
            other => drop(other?),
        }
    }
}

fn execute_all(
    job: &Value,
    init: &Started,
    cgroups: &[PathBuf],
    seccomp: &[u8],
    witness: &SingleThreaded,
) -> Result<Vec<Value>> {
    let processes = job["exec"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut executed = Vec::new();
    for process in processes {
        let (stdio, output) = stdio(process["terminal"] == true)?;
        let plan = ExecPlan {
            init: init.pid,
            init_pidfd: init.pidfd.as_fd(),
            process: &serde_json::from_value(process.clone())?,
            cgroup_dirs: cgroups,
            stdio,
            seccomp: filter(seccomp),
        };
        executed.push(match finish(exec(plan, witness)?)? {
            Ok(started) => outcome(started, output)?,
            Err(error) => failure(&error),
        });
    }
    Ok(executed)
}

/// Waits for a start to end, as an event loop would, and for its helper.
fn finish(mut starting: Starting) -> Result<Result<Started, StartError>> {
    let helper = starting.helper();
    let result = loop {
        if let Poll::Ready(result) = starting.finish() {
            break result;
        }
        let mut fds = [PollFd::new(starting.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
    };
    helper.map(wait).transpose()?;
    if result.is_err()
        && let Some(process) = starting.process()
    {
        wait(process)?;
    }
    Ok(result)
}

fn wait(pid: Pid) -> Result<ExitStatus> {
    let pidfd = process::pidfd_open(pid)?;
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        if let Some((_, status)) = try_reap(Some(pidfd.as_fd()))? {
            return Ok(status);
        }
    }
}

/// The driver's side of a process's output.
enum Output {
    Pipes(PipeReader, PipeReader),
    Terminal,
}

fn stdio(terminal: bool) -> Result<(Stdio, Output)> {
    if terminal {
        let size = WindowSize {
            columns: 132,
            rows: 43,
        };
        return Ok((Stdio::Terminal(size), Output::Terminal));
    }
    let (stdout, stdout_writer) = pipe()?;
    let (stderr, stderr_writer) = pipe()?;
    let stdin: OwnedFd = File::open("/dev/null")?.into();
    let pipes = [stdin, stdout_writer.into(), stderr_writer.into()];
    Ok((Stdio::Pipes(pipes), Output::Pipes(stdout, stderr)))
}

fn outcome(started: Started, output: Output) -> Result<Value> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    match (output, started.terminal) {
        (Output::Pipes(mut stdout, mut stderr), _) => {
            stdout.read_to_end(&mut out)?;
            stderr.read_to_end(&mut err)?;
        }
        // A terminal without processes ends by EIO, after all that was written to it.
        (Output::Terminal, Some(master)) => drop(File::from(master).read_to_end(&mut out)),
        (Output::Terminal, None) => anyhow::bail!("no terminal came"),
    }
    let (code, signal) = match wait(started.pid)? {
        ExitStatus::Exited(code) => (Some(code), None),
        ExitStatus::Killed(signal) => (None, Some(signal)),
    };
    Ok(json!({
        "code": code,
        "signal": signal,
        "stdout": String::from_utf8_lossy(&out),
        "stderr": String::from_utf8_lossy(&err),
    }))
}

fn failure(error: &StartError) -> Value {
    let kind = match error {
        StartError::NotExecutable { .. } => "NotExecutable",
        StartError::InvalidSpec(_) => "InvalidSpec",
        StartError::Io { .. } => "Io",
        StartError::Hook { .. } => "Hook",
        StartError::Refused { .. } => "Refused",
        StartError::Died => "Died",
    };
    json!({ "kind": kind, "error": error.to_string() })
}

struct Layers {
    lower: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
}

impl Layers {
    fn of(job: &Value) -> Option<Self> {
        let overlay = job.get("overlay").filter(|overlay| overlay.is_object())?;
        Some(Self {
            lower: paths(&overlay["lower"]),
            upper: text(&overlay["upper"]).into(),
            work: text(&overlay["work"]).into(),
        })
    }

    fn rootfs(&self) -> Rootfs<'_> {
        Rootfs::Overlay(Overlay {
            lower_dirs: &self.lower,
            upper_dir: &self.upper,
            work_dir: &self.work,
        })
    }
}

fn filter(program: &[u8]) -> SeccompFilter<'_> {
    SeccompFilter { program, flags: 0 }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn paths(value: &Value) -> Vec<PathBuf> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|path| text(path).into()).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let byte = |value: &Value| value.as_u64().and_then(|n| u8::try_from(n).ok());
    all.iter().filter_map(byte).collect()
}
