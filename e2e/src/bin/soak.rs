//! Whether daemon and shim stay as they are however much they have done: see `e2e/soak.sh`.
//!
//! Usage: `soak PODS EXECS`. So many pods live and go, four at a time; then so many commands are run in
//! one container, and a tenth as many containers live and go in its pod. What daemon and shim take is
//! printed at every quarter. Nothing may grow from the first quarter on, when caches and pools are filled.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are for a person")]

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Container, Figures, Node, Pod, Process, unless_interrupted};
use std::cell::RefCell;
use std::ops::Range;

/// How much memory may be more after three quarters of the work: allocators hold on to some.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// The same for descriptors.
const DESCRIPTORS_MORE_MAX: usize = 4;

/// The same for threads: those that wait for the disk and the kernel come when many do, and go.
const THREADS_MORE_MAX: usize = 16;

#[tokio::main]
async fn main() -> Result<()> {
    let usage = "usage: soak PODS EXECS";
    let mut arguments = std::env::args().skip(1);
    let pods: u64 = arguments.next().context(usage)?.parse().context(usage)?;
    let execs: u64 = arguments.next().context(usage)?.parse().context(usage)?;
    unless_interrupted(soak(pods, execs)).await?
}

async fn soak(pods: u64, execs: u64) -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("resident", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let watched = Watched {
        daemon: daemon(&node)?,
        shim: container.process().await?.parent()?,
    };
    println!("{pods} pods");
    in_quarters(pods, &watched, async |numbers| live(&node, numbers).await).await?;
    println!("{execs} commands in a container");
    in_quarters(execs, &watched, async |numbers| {
        run(&container, numbers).await
    })
    .await?;
    println!("{} containers in a pod", execs / 10);
    in_quarters(execs / 10, &watched, async |numbers| {
        restart(&pod, numbers).await
    })
    .await?;
    node.finish().await
}

fn daemon(node: &Node) -> Result<Process> {
    let pid = node.daemon_pid().context("the daemon does not run")?;
    Ok(Process(pid.try_into()?))
}

/// Whose figures are taken.
struct Watched {
    daemon: Process,
    shim: Process,
}

impl Watched {
    fn figures(&self) -> Result<[Figures; 2]> {
        Ok([Figures::of(self.daemon)?, Figures::of(self.shim)?])
    }
}

/// Does a number of things, and compares what they leave.
async fn in_quarters(
    count: u64,
    watched: &Watched,
    work: impl AsyncFn(Range<u64>) -> Result<()>,
) -> Result<()> {
    let mut figures = vec![watched.figures()?];
    tell(0, &figures[0]);
    for quarter in 0..4 {
        work(count * quarter / 4..count * (quarter + 1) / 4).await?;
        figures.push(watched.figures()?);
        tell(25 * (quarter + 1), &figures[figures.len() - 1]);
    }
    let (first, last) = (figures[1], figures[4]);
    for ((name, before), after) in ["daemon", "shim"].into_iter().zip(first).zip(last) {
        ensure!(
            after.resident_bytes <= before.resident_bytes + GROWTH_BYTES_MAX
                && after.descriptors <= before.descriptors + DESCRIPTORS_MORE_MAX
                && after.threads <= before.threads + THREADS_MORE_MAX,
            "the {name} grows from {before} to {after}"
        );
    }
    Ok(())
}

fn tell(percent: u64, [daemon, shim]: &[Figures; 2]) {
    println!("{percent:4} %  daemon {daemon}; shim {shim}");
}

/// Lets pods live and go, each with a container.
async fn live(node: &Node, numbers: Range<u64>) -> Result<()> {
    each(numbers, async |number| {
        let pod = node.run_pod(&format!("pod-{number}"), |_| ()).await?;
        let container = pod.start("main", |_| ()).await?;
        container.stop(0).await?;
        container.remove().await?;
        pod.stop().await?;
        pod.remove().await?;
        Ok(std::fs::remove_dir_all(&pod.config.log_directory)?)
    })
    .await
}

/// Runs commands in a container.
async fn run(container: &Container<'_>, numbers: Range<u64>) -> Result<()> {
    each(numbers, async |number| {
        let number = number.to_string();
        let done = container.exec(&["echo", &number]).await?;
        ensure!(done.stdout == number + "\n" && done.code == 0, "{done:?}");
        Ok(())
    })
    .await
}

/// Lets containers live and go in a pod, as those do that crash again and again.
async fn restart(pod: &Pod<'_>, numbers: Range<u64>) -> Result<()> {
    each(numbers, async |number| {
        let name = format!("crash-{number}");
        let container = pod
            .start(&name, |config| config.command = vec!["false".to_owned()])
            .await?;
        ensure!(container.wait_exit().await?.exit_code == 1, "{name}");
        container.remove().await?;
        Ok(std::fs::remove_file(container.log_path())?)
    })
    .await
}

/// Does something with each number, four at a time.
async fn each(numbers: Range<u64>, work: impl AsyncFn(u64) -> Result<()>) -> Result<()> {
    let numbers = RefCell::new(numbers);
    let worker = async || {
        loop {
            let Some(number) = numbers.borrow_mut().next() else {
                return anyhow::Ok(());
            };
            work(number).await?;
        }
    };
    tokio::try_join!(worker(), worker(), worker(), worker()).map(drop)
}
