//! The audit that ends every test: it finds what is left, and sweeps it when a test has failed.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Cgroup, Node, Slot, eventually, leftovers, with_host_port};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
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
    for place in leftovers::places_of_cgroup(&slot.cgroup()) {
        fs::create_dir_all(place.join("pod"))?;
    }
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
    ensure!(!leftovers::places_of_cgroup(&cgroup).any(|place| place.exists()));
    Ok(())
}

/// A file or directory of the test's own, named by the audit as this.
fn plant(path: &Path) -> Result<String> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, "{}")?;
    Ok(format!("file {}", path.display()))
}

/// Things that no record of the node speaks of, by the names that an audit has for them. They are below the
/// pod's own directories where these have room for others.
fn plant_files(node: &Node, pod: &str) -> Result<Vec<String>> {
    let (root, run) = (node.root_dir(), node.run_dir().join("pods"));
    let layer = root.join("layers/999");
    fs::create_dir(&layer)?;
    fs::write(layer.join("layer.json"), r#"{"key": "planted"}"#)?;
    fs::write(root.join("images/blobs/sha256/planted"), "")?;
    // The daemon has it open.
    fs::remove_file(root.join("images/lock"))?;
    Ok(vec![
        "layer 999".to_owned(),
        "blob planted".to_owned(),
        format!(
            "descriptor of the daemon: {}",
            root.join("images/lock (deleted)").display()
        ),
        plant(&root.join("pods").join(pod).join("planted"))?,
        plant(&root.join("layers/staging/planted"))?,
        plant(&run.join("planted"))?,
        plant(&run.join(pod).join("exits/planted"))?,
        plant(&run.join(pod).join("containers/planted"))?,
        plant(&node.netns_dir().join("planted"))?,
    ])
}

fn plant_in_network(node: &Node) -> Result<Vec<String>> {
    let number = node.number();
    let (link, bridge, cni_link, cni_bridge) = (
        format!("e2ep{number}"),
        node.bridge(),
        format!("e2eq{number}"),
        format!("ce2ec{number}"),
    );
    run(&format!("ip link add {link} type veth"))?;
    run(&format!("ip link set {link} master {bridge}"))?;
    run(&format!("ip link add {cni_bridge} type bridge"))?;
    run(&format!("ip link add {cni_link} type veth"))?;
    run(&format!("ip link set {cni_link} master {cni_bridge}"))?;
    let map = format!("inet crisp-e2e{number} any4");
    run(&format!(
        "nft add element {map} {{ tcp . 4242 comment \"planted\" : 10.0.0.1 . 80 }}"
    ))?;
    let network = node.cni_network(&[]);
    let name = network["name"].as_str().context("a network has a name")?;
    let dir = node
        .root_dir()
        .with_file_name("cni")
        .join("data")
        .join(name);
    plant(&dir.join("10.212.0.9"))?;
    fs::write(dir.join("10.212.0.9"), "planted\n")?;
    Ok(vec![
        format!("link {link}"),
        "1 links of CNI's bridge".to_owned(),
        "host ports of planted".to_owned(),
        "address 10.212.0.9 of planted".to_owned(),
    ])
}

/// A mount, and a process in a cgroup beside those of a pod's containers.
fn plant_in_kernel(node: &Node, pod: &Cgroup) -> Result<(tokio::process::Child, Vec<String>)> {
    let point = node.run_dir().join("mounted");
    fs::create_dir(&point)?;
    let flags = MsFlags::empty();
    mount(Some("none"), &point, Some("tmpfs"), flags, None::<&str>)?;
    let cgroup = pod.0.join("planted");
    fs::create_dir(&cgroup)?;
    let process = tokio::process::Command::new("sleep")
        .arg("1000000")
        .kill_on_drop(true)
        .spawn()?;
    let pid = process.id().context("it runs")?;
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
    let names = vec![
        format!("mount {}", point.display()),
        format!("cgroup {}", cgroup.display()),
        format!("process {pid} sleep"),
    ];
    Ok((process, names))
}

fn ensure_named(node: &Node, what: &str, names: &[String]) -> Result<()> {
    let differences = node.differences();
    for name in names {
        let line = format!("{what} {name}");
        let is_named = differences.iter().any(|it| it.starts_with(&line));
        ensure!(is_named, "not named: {line}\n{}", differences.join("\n"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_audit_of_a_node_that_runs_names_what_has_no_record() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("own", with_host_port(&node)).await?;
    let container = pod.start("main", |_| ()).await?;
    let pod_cgroup = container.cgroup("pids").await?.parent();
    node.audit_records().await?;
    let mut names = plant_files(&node, &pod.id)?;
    names.extend(plant_in_network(&node)?);
    let (mut process, of_kernel) = plant_in_kernel(&node, &pod_cgroup)?;
    names.extend(of_kernel);
    let named = ensure_named(&node, "unrecorded", &names);
    process.kill().await?;
    run(&format!("ip link delete ce2ec{}", node.number()))?;
    run(&format!("ip link delete e2eq{}", node.number()))?;
    node.abandon();
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_audit_of_a_node_that_runs_names_what_is_missing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("own", with_host_port(&node)).await?;
    let container = pod.start("main", |_| ()).await?;
    let (process, shim) = (container.process().await?, node.shim(&pod.id)?);
    let cgroup = process.cgroup("pids")?;
    node.audit_records().await?;
    // Nobody is to notice.
    node.kill()?;
    shim.kill();
    process.kill();
    eventually("they have ended", || !shim.runs() && !process.runs()).await?;
    eventually("nothing is in the cgroup", || {
        fs::remove_dir(&cgroup.0).is_ok()
    })
    .await?;
    umount2(&pod.netns(), MntFlags::MNT_DETACH)?;
    fs::remove_file(pod.netns())?;
    // Of the namespace nothing was left.
    let link = format!("crisp{}", &pod.id[..10]);
    let shown = Path::new("/sys/class/net").join(&link);
    eventually("the link is gone", || !shown.exists()).await?;
    for family in ["any4", "any6"] {
        run(&format!(
            "nft flush map inet crisp-e2e{} {family}",
            node.number()
        ))?;
    }
    let bundle = node
        .run_dir()
        .join("pods")
        .join(&pod.id)
        .join("containers")
        .join(&container.id);
    fs::remove_dir_all(&bundle)?;
    let names = [
        format!("process {}, a shim", shim.0),
        format!("process {}, a container", process.0),
        format!("cgroup {}", cgroup.0.display()),
        format!("mount {}", pod.netns().display()),
        format!("file {}", pod.netns().display()),
        format!("link {link}"),
        format!("host ports of {}", pod.id),
        format!("file {}", bundle.display()),
    ];
    let named = ensure_named(&node, "missing", &names);
    node.abandon();
    named
}
