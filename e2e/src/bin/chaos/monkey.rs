//! Who breaks things: the daemon, shims, processes, the disk and the plugins of the network.

use crate::calm;
use crate::plugins::Mood;
use crate::population::Resident;
use crate::random::Random;
use crate::world::{World, add_one};
use anyhow::{Context, Result};
use crisp_e2e::{Filler, Process};
use crisp_sys::process::{kill, pidfd_open, pidfd_send_signal};
use nix::libc::{SIGCONT, SIGSTOP};
use nix::unistd::Pid;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WHO: &str = "monkey";

/// How often everybody stands still, and what holds for the whole node is looked at.
const CALM_INTERVAL: Duration = Duration::from_secs(30);

/// Breaks one thing after the other until the end, and mends it.
pub(crate) async fn run(world: Arc<World>, mut random: Random) -> Result<()> {
    let mut last_calm = Instant::now();
    while !world.is_ending() {
        world.pause(random.milliseconds(100, 2000)).await;
        if last_calm.elapsed() > CALM_INTERVAL {
            calm::check(&world).await?;
            last_calm = Instant::now();
        }
        break_something(&world, &mut random).await?;
    }
    Ok(())
}

async fn break_something(world: &World, random: &mut Random) -> Result<()> {
    match random.between(0, 100) {
        0..30 => kill_daemon(world, random).await,
        30..38 => end_daemon(world, random).await,
        38..50 => strike_pod(world, random),
        50..55 => stop_shim(world, random).await,
        55..65 => strike_container(world, random),
        65..77 => fill_disk(world, random).await,
        77..90 => disturb_plugins(world, random).await,
        _ => {
            let by = world.plugins.toggle(&world.node)?;
            world.note(WHO, format_args!("pods to come are wired by {by}"));
            Ok(())
        }
    }
}

async fn kill_daemon(world: &World, random: &mut Random) -> Result<()> {
    let _fault = world.begin_fault(WHO, "the daemon is killed");
    add_one(&world.tally.daemons_killed);
    world.node.kill()?;
    restart(world, random).await
}

async fn end_daemon(world: &World, random: &mut Random) -> Result<()> {
    let _fault = world.begin_fault(WHO, "the daemon is told to end");
    add_one(&world.tally.other_faults);
    world.node.terminate().await?;
    restart(world, random).await
}

async fn restart(world: &World, random: &mut Random) -> Result<()> {
    tokio::time::sleep(random.milliseconds(0, 800)).await;
    world.node.restart().await?;
    world.note(WHO, "the daemon is there again");
    // Now and then it dies as soon as it is there, or while it comes.
    if random.chance(15) {
        tokio::time::sleep(random.milliseconds(0, 100)).await;
        world.note(WHO, "the daemon is killed once more");
        add_one(&world.tally.daemons_killed);
        world.node.kill()?;
        world.node.restart().await?;
        world.note(WHO, "the daemon is there again");
    }
    Ok(())
}

/// Kills the shim of a pod, or its pause process.
fn strike_pod(world: &World, random: &mut Random) -> Result<()> {
    let residents = world.population.residents();
    if residents.is_empty() {
        return Ok(());
    }
    let pod = random.pick(&residents);
    let pause = random.chance(30);
    let Some(shim) = shim_of(world, pod)? else {
        return Ok(());
    };
    let victim = if pause { pause_of(shim) } else { Some(shim) };
    let Some(pidfd) = victim.and_then(|victim| belonging(victim, &pod.id)) else {
        return Ok(());
    };
    let what = if pause { "pause process" } else { "shim" };
    let _fault = world.begin_fault(WHO, format_args!("the {what} of pod {} is killed", pod.id));
    add_one(&world.tally.shims_killed);
    world.population.release_addresses(&pod.id);
    pod.doom();
    kill(&pidfd);
    Ok(())
}

/// Has the shim of a pod stand still for a while: what is asked of it is answered later.
async fn stop_shim(world: &World, random: &mut Random) -> Result<()> {
    let residents = world.population.residents();
    if residents.is_empty() {
        return Ok(());
    }
    let pod = random.pick(&residents);
    let pidfd = shim_of(world, pod)?.and_then(|shim| belonging(shim, &pod.id));
    let Some(pidfd) = pidfd else {
        return Ok(());
    };
    let _fault = world.begin_fault(WHO, format_args!("the shim of pod {} stands still", pod.id));
    add_one(&world.tally.other_faults);
    // One that has ended stands still anyhow.
    let _ = pidfd_send_signal(&pidfd, SIGSTOP);
    tokio::time::sleep(random.milliseconds(100, 3000)).await;
    let _ = pidfd_send_signal(&pidfd, SIGCONT);
    world.note(WHO, "the shim goes on");
    Ok(())
}

/// By the file in which a shim says which process it is.
fn shim_of(world: &World, pod: &Resident) -> Result<Option<Process>> {
    let path = world
        .node
        .run_dir()
        .join("pods")
        .join(&pod.id)
        .join("shim.pid");
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(None);
    };
    let pid = text.split(' ').next().context("an empty shim.pid")?;
    Ok(Some(Process(pid.parse()?)))
}

/// The first child of a shim.
fn pause_of(shim: Process) -> Option<Process> {
    shim.children()
        .into_iter()
        .find(|child| child.command_line().contains("pause"))
}

/// Kills the first process of a container.
fn strike_container(world: &World, random: &mut Random) -> Result<()> {
    let residents = world.population.residents();
    let lodgers = residents.iter().flat_map(|pod| pod.lodgers().clone());
    let running: Vec<_> = lodgers.filter(|lodger| lodger.pid().is_some()).collect();
    if running.is_empty() {
        return Ok(());
    }
    let lodger = random.pick(&running);
    let Some(pidfd) = lodger
        .pid()
        .and_then(|pid| belonging(Process(pid), &lodger.id))
    else {
        return Ok(());
    };
    world.note(
        WHO,
        format_args!("the first process of {} is killed", lodger.id),
    );
    add_one(&world.tally.other_faults);
    lodger.kill();
    kill(&pidfd);
    Ok(())
}

/// Holds on to a process that is still what it is taken for: an id is in its cgroup or its arguments.
fn belonging(process: Process, id: &str) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(process.0)).ok()?;
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", process.0)).unwrap_or_default();
    (cgroup.contains(id) || process.command_line().contains(id)).then_some(pidfd)
}

/// Fills the disk of images and records, that of what belongs to running pods, or that of logs.
async fn fill_disk(world: &World, random: &mut Random) -> Result<()> {
    let node = &world.node;
    let dir = random
        .pick(&[node.root_dir(), node.run_dir(), node.log_dir()])
        .clone();
    let _fault = world.begin_fault(WHO, format_args!("the disk of {} is full", dir.display()));
    add_one(&world.tally.other_faults);
    let is_of_logs = dir == node.log_dir();
    if is_of_logs {
        world.log_disk.turn();
    }
    let filler = Filler::fill(&dir)?;
    let killed = random.chance(30);
    if killed {
        world.node.kill()?;
        add_one(&world.tally.daemons_killed);
        world.note(WHO, "the daemon is killed");
    }
    tokio::time::sleep(random.milliseconds(100, 3000)).await;
    drop(filler);
    if is_of_logs {
        world.log_disk.turn();
    }
    world.note(WHO, "the disk has room again");
    if killed {
        restart(world, random).await?;
    }
    Ok(())
}

/// Has the plugins hang or fail; the daemon may be killed meanwhile.
async fn disturb_plugins(world: &World, random: &mut Random) -> Result<()> {
    let mood = *random.pick(&[Mood::Hang, Mood::Fail]);
    let _fault = world.begin_fault(WHO, format_args!("plugins: {mood:?}"));
    add_one(&world.tally.other_faults);
    world.plugins.set(mood)?;
    tokio::time::sleep(random.milliseconds(100, 3000)).await;
    if random.chance(30) {
        world.note(WHO, "the daemon is killed");
        add_one(&world.tally.daemons_killed);
        world.node.kill()?;
        restart(world, random).await?;
    }
    world.plugins.reset(mood)?;
    world.note(WHO, "plugins do their work again");
    Ok(())
}
