//! What a daemon and its pods leave in the kernel and on disk: found, to be held against it; swept,
//! so that a failed test harms no other.

use crate::cni;
use crate::kernel::{Process, cgroup_hierarchies};
use crate::slot::Slot;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often sweeping tries again what the kernel refuses while processes still end.
const ATTEMPTS: u32 = 100;

/// Everything of a slot but the daemon itself and the files that were there before, a line for each.
#[must_use]
pub fn find(slot: &Slot, daemon: Option<u32>, files_before: &BTreeSet<PathBuf>) -> Vec<String> {
    let daemon = daemon.and_then(|pid| i32::try_from(pid).ok());
    let processes = processes(slot)
        .into_iter()
        .filter(|process| Some(process.0) != daemon);
    let mut found: Vec<String> = Vec::new();
    found.extend(
        processes.map(|process| format!("process {} {}", process.0, process.command_line())),
    );
    found.extend(
        mounts(slot)
            .iter()
            .map(|path| format!("mount {}", path.display())),
    );
    found.extend(bridge_ports(slot).iter().map(|link| format!("link {link}")));
    found.extend(nft_elements(slot).iter().map(|line| format!("nft {line}")));
    found.extend(cni::rules(slot).iter().map(|rule| format!("cni {rule}")));
    found.extend(
        cgroups(slot)
            .iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    found.extend(
        files(slot.dir())
            .difference(files_before)
            .map(|path| format!("file {}", path.display())),
    );
    found
}

/// Ends and removes everything of a slot.
pub(crate) fn sweep(slot: &Slot) {
    sweep_kernel(slot, &[]);
    if let Err(error) = fs::remove_dir_all(slot.dir())
        && error.kind() != ErrorKind::NotFound
    {
        eprintln!("{}: {error}", slot.dir().display());
    }
}

/// The same but for files, and for mounts that are to stay.
pub(crate) fn sweep_kernel(slot: &Slot, kept: &[PathBuf]) {
    end_processes(slot);
    let mounts = mounts(slot);
    for path in mounts.iter().rev().filter(|path| !kept.contains(path)) {
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
    for link in bridge_ports(slot) {
        run(slot, "ip", &["link", "delete", &link]);
    }
    run(slot, "ip", &["link", "delete", &slot.bridge()]);
    run(slot, "ip", &["link", "delete", &slot.cni_bridge()]);
    cni::remove_rules(slot);
    for (family, table) in nft_tables(slot) {
        run(slot, "nft", &["delete", "table", &family, &table]);
    }
    remove_cgroups(slot);
}

/// Processes that are in a slot's cgroups, or hold or name a path below its directory.
fn processes(slot: &Slot) -> Vec<Process> {
    let own = Process(std::process::id().cast_signed());
    let inside = format!("{}/", slot.dir().display());
    let cgroup = format!(":{}/", slot.cgroup());
    let belongs = |process: &Process| {
        let proc = PathBuf::from(format!("/proc/{}", process.0));
        let mentions = |file: &str, what: &str| {
            fs::read(proc.join(file))
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains(what))
        };
        let open = fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        mentions("cgroup", &cgroup)
            || mentions("cmdline", &inside)
            || open.any(|path| path.starts_with(slot.dir()))
    };
    let mut all = Process::all();
    all.retain(|process| *process != own && process.runs() && belongs(process));
    all
}

/// Shims of a slot's pods, and what is in the pods' cgroups.
pub(crate) fn processes_of_pods(slot: &Slot) -> Vec<Process> {
    let cgroup = format!(":{}/", slot.cgroup());
    let inside = format!("crisp-shim shim {}/", slot.dir().display());
    let of_pod = |process: &Process| {
        let memberships = fs::read_to_string(format!("/proc/{}/cgroup", process.0));
        memberships.is_ok_and(|text| text.contains(&cgroup))
            || process.command_line().starts_with(&inside)
    };
    let mut all = Process::all();
    all.retain(|process| process.runs() && of_pod(process));
    all
}

fn end_processes(slot: &Slot) {
    for _ in 0..ATTEMPTS {
        let left = processes(slot);
        if left.is_empty() {
            return;
        }
        for process in left {
            let _ = kill(Pid::from_raw(process.0), Signal::SIGKILL);
        }
        pause();
    }
}

/// Mount points below a slot's directory, parents first.
pub(crate) fn mounts(slot: &Slot) -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points
        .filter(|point| point.starts_with(slot.dir()))
        .collect()
}

/// Links that are plugged into a slot's bridges.
fn bridge_ports(slot: &Slot) -> Vec<String> {
    let bridges = [slot.bridge(), slot.cni_bridge()];
    bridges
        .iter()
        .flat_map(|bridge| ports_of(slot, bridge))
        .collect()
}

/// Links that are plugged into a bridge.
pub(crate) fn ports_of(slot: &Slot, bridge: &str) -> Vec<String> {
    let listing = run(slot, "ip", &["-o", "link", "show", "master", bridge]);
    let names = listing.lines().filter_map(|line| line.split(": ").nth(1));
    names
        .map(|name| name.split('@').next().unwrap_or(name).to_owned())
        .collect()
}

/// The tables of a slot, by family and name.
fn nft_tables(slot: &Slot) -> Vec<(String, String)> {
    let listing = run(slot, "nft", &["list", "tables"]);
    let tables = listing.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some((words.next()?, words.next()?))
    });
    tables
        .filter(|(_, table)| table.ends_with(&slot.instance()))
        .collect()
}

/// What is in the sets and maps of a slot's tables.
pub(crate) fn nft_elements(slot: &Slot) -> Vec<String> {
    let listings = nft_tables(slot)
        .into_iter()
        .map(|(family, table)| run(slot, "nft", &["list", "table", &family, &table]));
    listings.flat_map(|listing| elements_in(&listing)).collect()
}

/// The lines `elements = { … }` of a listing, each of which may be broken.
fn elements_in(listing: &str) -> Vec<String> {
    let behind = listing.split("elements = {").skip(1);
    let inside = behind.filter_map(|rest| rest.split('}').next());
    inside
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Cgroups below a slot's own in every hierarchy, parents first.
fn cgroups(slot: &Slot) -> Vec<PathBuf> {
    cgroup_roots(slot)
        .iter()
        .flat_map(|root| directories(root))
        .collect()
}

/// A slot's own cgroup in every hierarchy that has it.
pub(crate) fn cgroup_roots(slot: &Slot) -> Vec<PathBuf> {
    places_of_cgroup(&slot.cgroup())
        .filter(|path| path.is_dir())
        .collect()
}

/// Where a cgroup would be, in whichever hierarchy.
pub fn places_of_cgroup(path: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let name = path.trim_start_matches('/').to_owned();
    let hierarchies = cgroup_hierarchies().into_iter();
    hierarchies.map(move |hierarchy| hierarchy.join(&name))
}

fn remove_cgroups(slot: &Slot) {
    for _ in 0..ATTEMPTS {
        let left: Vec<PathBuf> = cgroup_roots(slot)
            .into_iter()
            .chain(cgroups(slot))
            .collect();
        if left.is_empty() {
            return;
        }
        for path in left.iter().rev() {
            let _ = fs::remove_dir(path);
        }
        pause();
    }
}

/// All directories below one, parents first.
pub(crate) fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path());
    below
        .flat_map(|path| [vec![path.clone()], directories(&path)].concat())
        .collect()
}

/// Everything below a directory that is not a directory.
#[must_use]
pub fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut files(&entry.path()));
        } else {
            found.insert(entry.path());
        }
    }
    found
}

/// What a command on a slot's machine prints; nothing when it fails, as it does for what is not there.
pub(crate) fn run(slot: &Slot, command: &str, arguments: &[&str]) -> String {
    let output = slot.command(command).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{command}: {error}; run hack/test.sh --prepare"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
