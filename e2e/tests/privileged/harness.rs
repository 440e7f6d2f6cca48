//! The audit that ends every test: it finds what is left, and sweeps it when a test has failed.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Slot, leftovers};
use nix::mount::{MsFlags, mount};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};

fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let mut process = Command::new(words.next().context("a command has words")?);
    ensure!(process.args(words).status()?.success(), "{command}");
    Ok(())
}

/// One of everything that a pod has.
fn leave_traces(slot: &Slot) -> Result<Child> {
    let bridge = slot.bridge();
    let (link, table) = (
        format!("e2el{}", slot.number()),
        format!("crisp-{}", slot.instance()),
    );
    run(&format!("ip link add {bridge} type bridge"))?;
    run(&format!("ip link add {link} type veth"))?;
    run(&format!("ip link set {link} master {bridge}"))?;
    run(&format!("nft add table inet {table}"))?;
    run(&format!(
        "nft add set inet {table} ports {{ type inet_service ; elements = {{ 80 }} ; }}"
    ))?;
    // As CNI's portmap does, for one of its chains.
    run("iptables -t nat -N CNI-E2E-TRACE")?;
    let comment = format!("dnat name: \"{}\" id: \"pod\"", slot.cni_network());
    let rule = [
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-m",
        "comment",
        "--comment",
        &comment,
    ];
    let rule = Command::new("iptables")
        .args(rule)
        .args(["-j", "CNI-E2E-TRACE"])
        .status()?;
    ensure!(rule.success());
    fs::create_dir_all(slot.dir().join("mounted"))?;
    mount(
        Some("none"),
        &slot.dir().join("mounted"),
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    fs::create_dir_all(format!("/sys/fs/cgroup/pids{}/pod", slot.cgroup()))?;
    fs::write(slot.dir().join("file"), "")?;
    // Known by the file that it holds open.
    let stdin = fs::File::open(slot.dir().join("file"))?;
    Ok(Command::new("sleep").arg("1000000").stdin(stdin).spawn()?)
}

#[test]
fn privileged_audit_finds_every_kind_of_trace_and_sweeps_it() -> Result<()> {
    let slot = Slot::take();
    ensure!(leftovers::find(&slot, None, &BTreeSet::new()) == [""; 0]);
    let mut process = leave_traces(&slot)?;
    let found = leftovers::find(&slot, None, &BTreeSet::new());
    for kind in ["process", "mount", "link", "nft", "cni", "cgroup", "file"] {
        ensure!(
            found.iter().any(|line| line.starts_with(kind)),
            "no {kind} in {found:?}"
        );
    }
    let (dir, bridge, cgroup) = (slot.dir().to_owned(), slot.bridge(), slot.cgroup());
    drop(slot);
    process.wait()?;
    let chain = Command::new("iptables")
        .args(["-t", "nat", "-L", "CNI-E2E-TRACE"])
        .output()?;
    ensure!(!chain.status.success(), "{chain:?}");
    ensure!(!dir.exists() && !Path::new("/sys/class/net").join(bridge).exists());
    ensure!(
        !Path::new("/sys/fs/cgroup/pids")
            .join(cgroup.trim_start_matches('/'))
            .exists()
    );
    Ok(())
}
