//! Does to a node what several kubelets do, at random, while things break at random, and checks all
//! the while what must hold: see `e2e/chaos.sh`.
//!
//! Usage: `chaos SECONDS SEED [TRACE]`. The seed decides what each of those who take part does next, however
//! often it has to ask; what comes of it depends on who is faster. TRACE is a file for what was done and answered, a line each.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the result is for a person")]

mod calm;
mod commands;
mod container;
mod faults;
mod images;
mod kubelet;
mod lists;
mod logs;
mod monkey;
mod plugins;
mod pod;
mod population;
mod random;
mod traces;
mod workload;
mod world;

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Figures, unless_interrupted};
use kubelet::{Client, Kubelet};
use pod::Pod;
use random::Random;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};
use world::World;

/// Connections to the daemon, each as of a kubelet of its own.
const CLIENTS: u64 = 3;

/// Pods that each has at a time.
const PODS_PER_CLIENT: u64 = 4;

// One thread does for all: they wait far more than they work.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: chaos SECONDS SEED [TRACE]";
    let seconds = arguments.next().context(usage)?.parse().context(usage)?;
    let seed: u64 = arguments.next().context(usage)?.parse().context(usage)?;
    let default_trace = || std::env::temp_dir().join(format!("crisp-chaos-{seed}.trace"));
    let trace = arguments.next().map_or_else(default_trace, PathBuf::from);
    println!(
        "seed {seed}, {seconds} seconds, trace in {}",
        trace.display()
    );
    let run = unless_interrupted(run(Duration::from_secs(seconds), seed, &trace));
    // Whoever interrupts it has all of it removed: what is left of the work is dropped with the set.
    match LocalSet::new().run_until(run).await? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(violation) => {
            println!("VIOLATION with seed {seed}: {violation:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn run(time: Duration, seed: u64, trace: &Path) -> Result<()> {
    let world = Arc::new(World::open(trace).await?);
    let before = calm::figures(&world)?;
    let mut everybody = populate(&world, seed).await?;
    let clock = world.clone();
    everybody.spawn_local(async move {
        clock.pause(time).await;
        clock.end();
        Ok(())
    });
    let mut result = Ok(());
    while let Some(ended) = everybody.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(panic.into()));
        if let Err(violation) = ended {
            world.note("main", format_args!("VIOLATION {violation:#}"));
            result = Err(violation);
            break;
        }
    }
    everybody.shutdown().await;
    let result = match result {
        Ok(()) => finish(&world, before).await,
        violation => violation,
    };
    let violations = u32::from(result.is_err());
    println!("{}, violations {violations}", world.tally);
    if result.is_err() {
        keep_log(&world, trace)?;
    }
    result
}

async fn populate(world: &Arc<World>, seed: u64) -> Result<JoinSet<Result<()>>> {
    let mut everybody = JoinSet::new();
    let client = Client::connect(world).await?;
    everybody.spawn_local(lists::listen(world.clone(), client));
    let mut stream: u16 = 0;
    for number in 0..CLIENTS {
        let client = Client::connect(world).await?;
        let mut member = |who: String| {
            stream += 1;
            Kubelet {
                world: world.clone(),
                client: client.clone(),
                random: Random::new(seed, stream.into()),
                who,
                number: stream,
            }
        };
        everybody.spawn_local(lists::look(member(format!("{number}-lists"))));
        let image = images::publish(number);
        everybody.spawn_local(images::turn_over(member(format!("{number}-image")), image));
        for pod in 0..PODS_PER_CLIENT {
            everybody.spawn_local(live(member(format!("{number}-pod-{pod}"))));
        }
    }
    // Once all are connected.
    everybody.spawn_local(monkey::run(world.clone(), Random::new(seed, 0)));
    Ok(everybody)
}

/// One pod after the other, now and then under the name of the last one.
async fn live(mut kubelet: Kubelet) -> Result<()> {
    let mut number = 0;
    while !kubelet.world.is_ending() {
        if kubelet.random.chance(70) {
            number += 1;
        }
        let name = format!("{}-{number}", kubelet.who);
        let life = Pod::live(&mut kubelet.fork(), &name).await;
        life.with_context(|| name)?;
    }
    Ok(())
}

/// Everybody has gone: nothing is left, and the daemon has given back what it took.
async fn finish(world: &World, before: Figures) -> Result<()> {
    let after = calm::figures(world)?;
    println!("the daemon had {before}; it has {after}");
    ensure!(
        after.descriptors <= before.descriptors + 8,
        "the daemon has kept descriptors"
    );
    ensure!(
        !world.node.log().contains("panicked"),
        "the daemon has panicked"
    );
    world.node.clear().await
}

/// What the daemon said, beside the trace.
fn keep_log(world: &World, trace: &Path) -> Result<()> {
    let log = trace.with_extension("daemon.log");
    std::fs::copy(world.node.log_path(), &log)?;
    println!("the daemon's log is in {}", log.display());
    Ok(())
}
