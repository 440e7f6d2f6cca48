//! The audit of a node that runs: the kernel and the disk have what its records say, nothing more and
//! nothing less.
//!
//! What the records say and what there is are sets of lines, and the audit is their difference. Parts of
//! which it is open whether they are there yet, or still, are in neither set.

use crate::cni;
use crate::kernel::{Process, cgroups_are_v2};
use crate::leftovers::{self, cgroup_roots, nft_elements};
use crate::records::{self, ContainerState, PodRecord, Stored, Wiring, entries};
use crate::slot::Slot;
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How the parts of a node that has a daemon differ from what its records say, a line for each: `missing`
/// or `unrecorded`, and what it is.
#[must_use]
pub(crate) fn differences(slot: &Slot, daemon: Option<u32>) -> Vec<String> {
    let audit = records::pods(&slot.root_dir()).and_then(|pods| {
        let mut audit = Audit {
            slot,
            pods,
            recorded: BTreeSet::new(),
            found: BTreeSet::new(),
        };
        audit.processes();
        audit.cgroups();
        audit.network();
        audit.files();
        audit.images()?;
        audit.descriptors(daemon);
        Ok(audit)
    });
    match audit {
        Ok(audit) => audit.differences(),
        Err(error) => vec![format!("missing {error:#}")],
    }
}

struct Audit<'a> {
    slot: &'a Slot,
    pods: Vec<PodRecord>,
    recorded: BTreeSet<String>,
    found: BTreeSet<String>,
}

impl Audit<'_> {
    fn differences(self) -> Vec<String> {
        let in_between: Vec<&str> = self
            .pods
            .iter()
            .filter(|pod| pod.is_in_between())
            .map(|pod| pod.id.as_str())
            .collect();
        let is_settled = |line: &&String| !in_between.iter().any(|id| line.contains(&id[..10]));
        let missing = self.recorded.difference(&self.found).filter(is_settled);
        let unrecorded = self.found.difference(&self.recorded).filter(is_settled);
        missing
            .map(|line| format!("missing {line}"))
            .chain(unrecorded.map(|line| format!("unrecorded {line}")))
            .collect()
    }

    fn ready(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.iter().filter(|pod| pod.is_ready())
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.slot.dir().join(name)
    }

    fn record(&mut self, lines: impl IntoIterator<Item = String>) {
        self.recorded.extend(lines);
    }

    fn find(&mut self, lines: impl IntoIterator<Item = String>) {
        self.found.extend(lines);
    }

    /// Shims, pause processes and first processes of containers; all else in the pods' cgroups has to
    /// descend from a shim.
    fn processes(&mut self) {
        let mut recorded = BTreeSet::new();
        for pod in self.ready() {
            recorded.extend(pod.shim_pid.map(|pid| ("shim", pid)));
            recorded.extend(pod.pause_pid.map(|pid| ("pause", pid)));
            for container in &pod.containers {
                if let ContainerState::Running(pid) = container.state {
                    recorded.insert(("container", pid));
                }
            }
        }
        let is_recorded = |process: Process| recorded.iter().any(|(_, pid)| *pid == process.0);
        let strangers: Vec<Process> = leftovers::processes_of_pods(self.slot)
            .into_iter()
            .filter(|process| !is_recorded(*process) && !ancestors(*process).any(is_recorded))
            .collect();
        let running = recorded
            .iter()
            .filter(|(_, pid)| Process(*pid).runs())
            .map(|(kind, pid)| format!("process {pid}, a {kind}"))
            .collect::<Vec<_>>();
        self.record(
            recorded
                .iter()
                .map(|(kind, pid)| format!("process {pid}, a {kind}")),
        );
        self.find(running);
        self.find(
            strangers
                .iter()
                .map(|process| format!("process {} {}", process.0, process.command_line())),
        );
    }

    /// One for each pod and its containers, in every hierarchy, and for its pause process in some of version 1.
    /// Containers may make more below their own, and those of containers that ended are taken away soon.
    fn cgroups(&mut self) {
        let mut recorded = BTreeSet::new();
        let mut of_pauses = BTreeSet::new();
        let mut optional = BTreeSet::new();
        for pod in self.ready() {
            recorded.insert(pod.cgroup.clone());
            of_pauses.insert(format!("{}/{}", pod.cgroup, pod.id));
            for container in &pod.containers {
                match container.state {
                    ContainerState::Exited => optional.insert(container.cgroup.clone()),
                    _ => recorded.insert(container.cgroup.clone()),
                };
            }
        }
        let parent = self.slot.cgroup();
        let below = |path: &String| path.starts_with(&format!("{parent}/"));
        recorded.retain(below);
        of_pauses.retain(below);
        let is_containers = |path: &str| {
            let containers = self.pods.iter().flat_map(|pod| &pod.containers);
            optional.contains(path)
                || containers
                    .into_iter()
                    .any(|container| path.starts_with(&format!("{}/", container.cgroup)))
        };
        let mut found = Vec::new();
        for root in cgroup_roots(self.slot) {
            let hierarchy = root
                .to_string_lossy()
                .trim_end_matches(parent.as_str())
                .to_owned();
            let has = |file: &str| root.join(file).exists();
            let has_pauses = cgroups_are_v2() || has("cpu.shares") || has("cpuacct.usage");
            let expected = recorded
                .iter()
                .chain(of_pauses.iter().filter(|_| has_pauses));
            self.recorded
                .extend(expected.map(|path| format!("cgroup {hierarchy}{path}")));
            for dir in leftovers::directories(&root) {
                let path = dir.to_string_lossy()[hierarchy.len()..].to_owned();
                if !is_containers(&path) {
                    found.push(format!("cgroup {hierarchy}{path}"));
                }
            }
        }
        self.find(found);
    }

    /// Namespaces with their files, ports of the bridge, host ports, and what plugins gave.
    fn network(&mut self) {
        let mut recorded = Vec::new();
        let mut plugins_pods = Vec::new();
        for pod in self.ready() {
            let netns = format!("{}/crisp-{}", self.dir("netns").display(), pod.id);
            match &pod.wiring {
                Wiring::None => continue,
                Wiring::BuiltIn {
                    host_interface,
                    has_host_ports,
                } => {
                    let link = Some(host_interface).filter(|name| !name.is_empty());
                    recorded.extend(link.map(|name| format!("link {name}")));
                    recorded.extend(has_host_ports.then(|| format!("host ports of {}", pod.id)));
                }
                Wiring::Plugins { addresses } => {
                    plugins_pods.push(pod.id.clone());
                    let host_local = addresses.iter().filter_map(|it| it.split('/').next());
                    recorded.extend(host_local.map(|ip| format!("address {ip} of {}", pod.id)));
                }
            }
            recorded.extend([format!("mount {netns}"), format!("file {netns}")]);
        }
        self.record(recorded);
        let own = ["netns", "root", "run"].map(|name| self.dir(name));
        let mounts = leftovers::mounts(self.slot);
        self.find(
            mounts
                .iter()
                // A file system on one of them is the test's own.
                .filter(|path| own.iter().any(|dir| path.starts_with(dir) && *path != dir))
                .map(|path| format!("mount {}", path.display())),
        );
        self.find(files(&self.dir("netns")));
        self.find(ports(self.slot, &self.slot.bridge()));
        let elements = nft_elements(self.slot).concat();
        let comments = elements.split("comment \"").skip(1);
        self.find(
            comments
                .filter_map(|rest| rest.split('"').next())
                .map(|pod| format!("host ports of {pod}")),
        );
        self.plugins(&plugins_pods);
    }

    /// What Debian's plugins keep of pods: addresses, ports of their bridge, rules of the packet filter.
    /// Others keep nothing that can be seen from here.
    fn plugins(&mut self, pods: &[String]) {
        let given = cni::addresses(self.slot);
        // Of the pods' addresses only those that host-local gave.
        let mut others: Vec<String> = Vec::new();
        if given.is_empty() {
            others.extend(
                self.recorded
                    .iter()
                    .filter(|line| line.starts_with("address"))
                    .cloned(),
            );
        }
        self.find(others);
        self.find(
            given
                .into_iter()
                .map(|(ip, pod)| format!("address {ip} of {pod}")),
        );
        let rules = cni::rules(self.slot);
        let strange = rules
            .iter()
            .filter(|rule| !pods.iter().any(|pod| rule.contains(pod.as_str())));
        self.find(strange.map(|rule| format!("rule {rule}")));
        let links = ports(self.slot, &self.slot.cni_bridge()).len();
        if links > pods.len() {
            self.find([format!("{} links of CNI's bridge", links - pods.len())]);
        }
    }

    /// Directories of pods, bundles, snapshots, exit records and records, and nothing half-written.
    fn files(&mut self) {
        let (records, runs, snapshots) = (
            self.dir("root/pods"),
            self.dir("run/pods"),
            self.dir("root/containers"),
        );
        let mut recorded = Vec::new();
        let mut found = files(&records);
        found.extend(files(&runs));
        found.extend(files(&snapshots));
        for pod in &self.pods {
            let (record, run) = (records.join(&pod.id), runs.join(&pod.id));
            recorded.push(file(&record));
            found.extend(
                files(&record)
                    .into_iter()
                    .filter(|line| !line.ends_with("/pod.json") && !line.ends_with("/containers")),
            );
            let containers = files(&record.join("containers"));
            found.extend(
                containers
                    .into_iter()
                    .filter(|line| !line.ends_with(".json")),
            );
            if pod.is_ready() {
                recorded.push(file(&run));
                found.extend(files(&run.join("containers")));
                found.extend(unexpected_exits(pod, &run));
            }
            for container in &pod.containers {
                recorded.push(format!("file {}", snapshots.join(&container.id).display()));
                if pod.is_ready() {
                    let bundle = run.join("containers").join(&container.id);
                    recorded.push(file(&bundle));
                }
            }
        }
        let staging = [snapshots, self.dir("root/layers"), self.dir("root/images")]
            .map(|dir| dir.join("staging"));
        found.retain(|line| {
            !staging
                .iter()
                .any(|dir| line.ends_with(&dir.display().to_string()))
        });
        found.extend(staging.iter().flat_map(|dir| files(dir)));
        self.record(recorded);
        self.find(found);
    }

    /// Blobs and layers that images name, and layers that snapshots are over.
    fn images(&mut self) -> Result<()> {
        let (layers, blobs) = (
            self.dir("root/layers"),
            self.dir("root/images/blobs/sha256"),
        );
        let stored = Stored::read(&self.dir("root"))?;
        let unnamed = entries(&blobs)
            .into_iter()
            .filter(|path| !stored.blobs.contains(&name(path)));
        let unnamed: Vec<String> = unnamed
            .map(|path| format!("blob {}", name(&path)))
            .collect();
        self.find(unnamed);
        let mut keys = BTreeSet::new();
        let mut unneeded = Vec::new();
        for dir in entries(&layers) {
            let Ok(number) = name(&dir).parse::<u64>() else {
                continue;
            };
            let key = records::read(&dir.join("layer.json"))?["key"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            self.find(
                stored
                    .layer_numbers
                    .get(&number)
                    .map(|number| format!("layer {number}")),
            );
            if !stored.layer_keys.contains(&key) && !stored.layer_numbers.contains(&number) {
                unneeded.push(format!("layer {number}"));
            }
            keys.insert(key);
        }
        // The fix-up of an image is a layer that its configuration does not name.
        if unneeded.len() > stored.fixups {
            self.find(unneeded);
        }
        self.record(
            stored
                .layer_numbers
                .iter()
                .map(|number| format!("layer {number}")),
        );
        self.record(
            stored
                .layer_keys
                .iter()
                .map(|key| format!("layer with {key}")),
        );
        self.find(
            stored
                .layer_keys
                .intersection(&keys)
                .map(|key| format!("layer with {key}")),
        );
        Ok(())
    }

    /// The daemon has one connection to each shim, no namespace, and no file that is gone.
    fn descriptors(&mut self, daemon: Option<u32>) {
        let Some(daemon) = daemon else {
            return;
        };
        let open: Vec<PathBuf> = entries(Path::new(&format!("/proc/{daemon}/fd")))
            .iter()
            .filter_map(|fd| fs::read_link(fd).ok())
            .collect();
        let inside = self.slot.dir().to_owned();
        let leaked = open.iter().filter(|path| {
            let text = path.to_string_lossy();
            text.starts_with("net:[") || path.starts_with(&inside) && text.ends_with(" (deleted)")
        });
        let leaked: Vec<String> = leaked
            .map(|path| format!("descriptor of the daemon: {}", path.display()))
            .collect();
        self.find(leaked);
        let sockets = packet_sockets(daemon);
        let connections = open
            .iter()
            .filter(|path| sockets.contains(path.to_string_lossy().as_ref()))
            .count();
        let pods = self
            .pods
            .iter()
            .filter(|pod| pod.is_ready() || pod.is_in_between());
        let (least, most) = (self.ready().count(), pods.count());
        if !(least..=most).contains(&connections) {
            self.find([format!(
                "connections of the daemon to shims: {connections} for {least} pods"
            )]);
        }
    }
}

/// Exit records of containers that are not known to have ended, or not known at all.
fn unexpected_exits(pod: &PodRecord, run: &Path) -> Vec<String> {
    let ended = |path: &PathBuf| {
        let mut containers = pod.containers.iter();
        containers.any(|it| it.id == name(path) && it.state == ContainerState::Exited)
    };
    let exits = entries(&run.join("exits"));
    exits
        .iter()
        .filter(|path| !ended(path))
        .map(|path| file(path))
        .collect()
}

/// The parents of a process, nearest first.
fn ancestors(process: Process) -> impl Iterator<Item = Process> {
    std::iter::successors(process.parent().ok(), |process| process.parent().ok())
        .take_while(|process| process.0 > 1)
}

fn ports(slot: &Slot, bridge: &str) -> Vec<String> {
    let links = leftovers::ports_of(slot, bridge);
    links.iter().map(|link| format!("link {link}")).collect()
}

/// As /proc/PID/fd shows them: sockets of the kind that shims are talked to by.
fn packet_sockets(daemon: u32) -> BTreeSet<String> {
    const SEQPACKET: &str = "0005";
    let sockets = fs::read_to_string(format!("/proc/{daemon}/net/unix")).unwrap_or_default();
    let inodes = sockets.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(4);
        (fields.next()? == SEQPACKET).then(|| fields.nth(1))?
    });
    inodes.map(|inode| format!("socket:[{inode}]")).collect()
}

fn files(dir: &Path) -> Vec<String> {
    entries(dir).iter().map(|path| file(path)).collect()
}

fn file(path: &Path) -> String {
    format!("file {}", path.display())
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
