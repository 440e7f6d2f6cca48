//! Measures how long a container takes from the call to the execution of its program, for a bundle
//! that a person prepares: `start_latency BUNDLE LOWER_DIR [RUNS [alone]]` as root, with `--release`.
//!
//! Each run gets an overlay of its own over `LOWER_DIR`, and the default seccomp profile, and is done by two
//! children or, with `alone`, by one. Prints the median and the 99th percentile in microseconds of three times: the
//! caller's (it does nothing else meanwhile), until the program is executed, and until it has ended.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a measurement is printed")]

use crisp_runtime::{
    ContainerPlan, Overlay, Rootfs, SeccompFilter, Started, Starting, Stdio, start,
};
use crisp_seccomp::Program;
use crisp_sys::process::{SingleThreaded, set_child_subreaper};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

const DEFAULT_RUNS: usize = 300;

fn main() -> Result<(), Box<dyn Error>> {
    let witness = SingleThreaded::verify()?;
    set_child_subreaper()?;
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: start_latency BUNDLE LOWER_DIR [RUNS [alone]]";
    let bundle = PathBuf::from(arguments.next().ok_or(usage)?);
    let lower = PathBuf::from(arguments.next().ok_or(usage)?);
    let runs = match arguments.next() {
        Some(runs) => runs.to_str().ok_or(usage)?.parse()?,
        None => DEFAULT_RUNS,
    };
    let alone = arguments.next().is_some_and(|word| word == "alone");
    let filter = crisp_seccomp::compile(&crisp_seccomp::default_profile(&HashSet::new()))?;
    let mut times = Times::default();
    for _ in 0..runs {
        measure(&bundle, &lower, &filter, alone, &witness, &mut times)?;
    }
    times.print();
    Ok(())
}

#[derive(Default)]
struct Times {
    called: Vec<Duration>,
    executed: Vec<Duration>,
    ended: Vec<Duration>,
}

impl Times {
    fn print(self) {
        for (name, mut times) in [
            ("call", self.called),
            ("executed", self.executed),
            ("ended", self.ended),
        ] {
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
            println!("{name}: median {} µs, p99 {} µs", at(50), at(99));
        }
    }
}

fn measure(
    bundle: &Path,
    lower: &Path,
    filter: &Program,
    alone: bool,
    witness: &SingleThreaded,
    times: &mut Times,
) -> Result<(), Box<dyn Error>> {
    let layer = bundle.join("layer");
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let null = || File::options().read(true).write(true).open("/dev/null");
    let plan = ContainerPlan {
        id: "example",
        bundle,
        rootfs: Rootfs::Overlay(Overlay {
            lower_dirs: &[lower.to_owned()],
            upper_dir: &upper,
            work_dir: &work,
        }),
        cgroup_dirs: &[],
        stdio: Stdio::Pipes([null()?.into(), null()?.into(), null()?.into()]),
        seccomp: SeccompFilter {
            program: &filter.filter,
            flags: filter.flags,
        },
        shm: None,
        mounts_from: None,
        alone,
    };
    let began = Instant::now();
    let mut starting = start(plan, witness)?;
    times.called.push(began.elapsed());
    let started = wait_for(&mut starting)?;
    times.executed.push(began.elapsed());
    waitid(Id::PIDFd(started.pidfd.as_fd()), WaitPidFlag::WEXITED)?;
    times.ended.push(began.elapsed());
    if let Some(helper) = starting.helper() {
        waitid(Id::Pid(helper), WaitPidFlag::WEXITED)?;
    }
    fs::remove_dir_all(&layer)?;
    Ok(())
}

fn wait_for(starting: &mut Starting) -> Result<Started, Box<dyn Error>> {
    loop {
        if let Poll::Ready(result) = starting.finish() {
            return Ok(result?);
        }
        let mut fds = [nix::poll::PollFd::new(
            starting.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE)?;
    }
}
