//! A pod or container as text.

use super::namespaces::{self, Namespaces};
use super::{limits, mounts, processes};
use crate::facts::{Cgroup, Cni, ContainerFacts, Network, PodFacts};
use crate::text::{Table, printable};
use crisp_model::{ContainerState, Exited, Protocol};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How far what belongs to a title is indented.
const INDENT: usize = 2;

/// The longest command that is shown, in letters.
const COMMAND_MAX: usize = 100;

/// What holds a pod or container back, a line for each reason; none: it does not run.
pub(super) type Held = Option<Vec<String>>;

/// A pod with its containers.
pub(super) fn pod(pod: &PodFacts, held: &Held) -> String {
    let metadata = &pod.config.metadata;
    let name = format!("{}/{}", metadata.namespace, metadata.name);
    let mut text = format!("pod {}\n", printable(&name));
    let mut all = pod_fields(pod);
    all.extend(held_fields(held));
    text.push_str(&fields(all));
    let pause = pod.pid.map(|pid| namespaces::of(Some(pid)));
    if let Some(pause) = &pause {
        section(
            &mut text,
            "namespaces",
            &namespaces::table(pause, pause, &namespaces::of(None)),
        );
    }
    section(&mut text, "processes", &tree(&pod.cgroup, pod.shim_pid));
    for one in &pod.containers {
        text.push('\n');
        let pause = pause.clone().unwrap_or_default();
        text.push_str(&container_text(one, &pause, &None));
    }
    text
}

/// A container.
pub(super) fn container(container: &ContainerFacts, pod: &PodFacts, held: &Held) -> String {
    let pause = pod
        .pid
        .map(|pid| namespaces::of(Some(pid)))
        .unwrap_or_default();
    let mut text = container_text(container, &pause, held);
    section(&mut text, "processes", &tree(&container.cgroup, None));
    text
}

fn container_text(container: &ContainerFacts, pod: &Namespaces, held: &Held) -> String {
    let mut text = format!("container {}\n", printable(&container.name));
    let mut all = container_fields(container);
    all.extend(held_fields(held));
    text.push_str(&fields(all));
    if let Some(pid) = container.pid {
        let own = namespaces::of(Some(pid));
        section(
            &mut text,
            "namespaces",
            &namespaces::table(&own, pod, &namespaces::of(None)),
        );
        if let Some(mounts) = mounts::of(pid) {
            section(&mut text, "mounts", &mounts);
        }
    }
    text
}

type Field = (&'static str, String);

fn fields(fields: Vec<Field>) -> String {
    let mut table = Table::default();
    let mut before = "";
    for (name, value) in fields {
        // A name that goes on is told once.
        let shown = if name == before { "" } else { name };
        table.row([shown.to_owned(), value]);
        before = name;
    }
    table.render(INDENT)
}

fn section(text: &mut String, title: &str, table: &Table) {
    text.push_str(&format!("{:INDENT$}{title}\n", ""));
    text.push_str(&table.render(2 * INDENT));
}

fn pod_fields(pod: &PodFacts) -> Vec<Field> {
    let mut fields = vec![
        ("id", pod.id.clone()),
        ("state", pod.process_status.clone()),
    ];
    if !pod.runtime_handler.is_empty() {
        fields.push(("handler", pod.runtime_handler.clone()));
    }
    match (&pod.network, &pod.cni) {
        (Some(network), _) => fields.extend(network_fields(network, pod)),
        (None, Some(cni)) => fields.extend(cni_fields(cni, pod)),
        (None, None) if pod.pid.is_some() => fields.push(("network", "the host's".to_owned())),
        (None, None) => {}
    }
    if let Some(logs) = &pod.config.log_directory {
        fields.push(("logs", path(logs)));
    }
    fields.push(("run dir", path(&pod.run_dir)));
    fields.extend(cgroup_fields(&pod.cgroup));
    fields
}

fn network_fields(network: &Network, pod: &PodFacts) -> Vec<Field> {
    let Network {
        host_interface,
        pod_interface,
        mac,
        mtu,
        ..
    } = network;
    let bridge = pod.bridge.as_deref().unwrap_or("-");
    let mut fields: Vec<Field> = Vec::new();
    for (number, address) in network.addresses.iter().enumerate() {
        let gateway = network.gateways.get(number);
        let by = gateway.map_or_else(String::new, |gateway| format!(" by {gateway}"));
        fields.push(("address", format!("{address}{by}")));
    }
    let (kind, place) = match &network.uplink {
        Some(uplink) => ("link", format!("on {}", uplink.name)),
        None => ("veth", format!("{host_interface} on bridge {bridge}")),
    };
    let in_the_pod = format!("{pod_interface} in the pod ({mac}, MTU {mtu})");
    fields.push((kind, format!("{in_the_pod}, {place}")));
    fields.extend(pod.net_namespace.iter().map(|netns| ("netns", path(netns))));
    fields.extend(network.port_mappings.iter().map(|port| {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let host = port.host_ip.map_or_else(String::new, |ip| format!("{ip} "));
        (
            "host port",
            format!(
                "{host}{} → {} ({protocol})",
                port.host_port, port.container_port
            ),
        )
    }));
    fields
}

fn cni_fields(cni: &Cni, pod: &PodFacts) -> Vec<Field> {
    let addresses = cni.addresses.iter();
    let mut fields: Vec<Field> = addresses.map(|a| ("address", a.clone())).collect();
    let plugins = cni.plugins.join(", ");
    let source = path(&cni.source);
    fields.push((
        "network",
        format!(
            "{} by CNI plugins {plugins}, as {source} said; {} in the pod",
            cni.network, cni.interface
        ),
    ));
    fields.extend(pod.net_namespace.iter().map(|netns| ("netns", path(netns))));
    fields
}

fn container_fields(container: &ContainerFacts) -> Vec<Field> {
    let mut fields = vec![
        ("id", container.id.clone()),
        ("state", state(&container.state)),
    ];
    fields.push(("image", image(container)));
    fields.push(("user", user(container)));
    fields.push(("command", command(container)));
    fields.extend(container.log_path.iter().map(|log| ("log", path(log))));
    fields.extend(cgroup_fields(&container.cgroup));
    fields
}

fn held_fields(held: &Held) -> Vec<Field> {
    let told = held.as_ref().map(|reasons| match reasons.as_slice() {
        [] => vec!["by nothing that is seen".to_owned()],
        reasons => reasons.to_vec(),
    });
    let lines = told.into_iter().flatten();
    lines.map(|line| ("held back", line)).collect()
}

fn cgroup_fields(cgroup: &Cgroup) -> Vec<Field> {
    let mut fields = vec![("cgroup", cgroup.path.clone())];
    if cgroup.directories.is_empty() {
        return fields;
    }
    fields.push(("cgroup", format!("below {}", hierarchies(cgroup))));
    fields.extend(limits::lines(cgroup));
    fields
}

/// Where the cgroup's path begins: `/sys/fs/cgroup`, or `/sys/fs/cgroup/{cpu,memory}`.
fn hierarchies(cgroup: &Cgroup) -> String {
    let below = cgroup.path.trim_start_matches('/');
    let root = |dir: &PathBuf| {
        let depth = Path::new(below).components().count();
        dir.ancestors().nth(depth).map(Path::to_owned)
    };
    let roots: Vec<PathBuf> = cgroup.directories.iter().filter_map(root).collect();
    let parents: BTreeSet<Option<&Path>> = roots.iter().map(|root| root.parent()).collect();
    let name = |root: &PathBuf| {
        root.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    match (roots.as_slice(), parents.first()) {
        ([only], _) => path(only),
        (several, Some(Some(parent))) if parents.len() == 1 => {
            let names: Vec<String> = several.iter().filter_map(name).collect();
            format!("{}/{{{}}}", parent.display(), names.join(","))
        }
        (several, _) => several
            .iter()
            .map(|root| path(root))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn state(state: &ContainerState) -> String {
    match state {
        ContainerState::Created => "created".to_owned(),
        ContainerState::Running(running) => {
            format!(
                "running for {} as pid {}",
                since(running.started_at),
                running.pid
            )
        }
        ContainerState::Exited(exited) => how_it_ended(exited),
    }
}

fn how_it_ended(exited: &Exited) -> String {
    let Exited {
        finished_at,
        reason,
        message,
        ..
    } = exited;
    let mut text = format!(
        "exited {} ago with code {}: {}",
        since(*finished_at),
        reason.exit_code(),
        reason.word()
    );
    if !message.is_empty() {
        text.push_str(&format!(": {message}"));
    }
    text
}

fn since(time: SystemTime) -> String {
    crate::text::age(SystemTime::now().duration_since(time).unwrap_or_default())
}

fn image(container: &ContainerFacts) -> String {
    let spec = &container.config.image;
    match (spec.user_specified_image.as_str(), spec.image.as_str()) {
        ("", name) if name == container.image => name.to_owned(),
        ("", name) | (name, _) => format!("{name} ({})", container.image),
    }
}

fn user(container: &ContainerFacts) -> String {
    let user = &container.user;
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    format!(
        "uid {}, gid {}, groups {}",
        user.uid,
        user.gid,
        groups.join(" ")
    )
}

fn command(container: &ContainerFacts) -> String {
    let config = &container.config;
    let words = config.command.iter().chain(&config.args);
    let text = words
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(" ");
    match text.char_indices().nth(COMMAND_MAX) {
        _ if text.is_empty() => "the image's".to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn tree(cgroup: &Cgroup, shim_pid: Option<u32>) -> Table {
    let pids = shim_pid
        .into_iter()
        .chain(crate::tasks::pids(&cgroup.directories));
    let processes: Vec<_> = pids.filter_map(processes::read).collect();
    processes::tree(&processes)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_model::ExitReason;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn exited() -> ContainerFacts {
        serde_json::from_value(json!({
            "id": "c1",
            "sandboxID": "p1",
            "name": "main",
            "pid": null,
            "state": ContainerState::Exited(Exited {
                started_at: None,
                finished_at: SystemTime::now() - Duration::from_secs(61),
                reason: ExitReason::OomKilled(137),
                message: "\x1b[2J".to_owned(),
            }),
            "image": "sha256:ab",
            "user": {"uid": 33, "gid": 34, "groups": [34, 50], "home": ""},
            "logPath": "/logs/0.log",
            "cgroup": {"path": "/crisp/p1/c1"},
            "config": crisp_model::ContainerConfig {
                image: crisp_model::ImageSpec { image: "busybox:1".to_owned(), ..Default::default() },
                args: vec!["a b".to_owned()],
                ..Default::default()
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_container_that_ended_tells_how() {
        assert_eq!(
            container_text(&exited(), &Vec::new(), &None),
            "container main\n\
             \x20 id        c1\n\
             \x20 state     exited 1m ago with code 137: OOMKilled: \u{fffd}[2J\n\
             \x20 image     busybox:1 (sha256:ab)\n\
             \x20 user      uid 33, gid 34, groups 34 50\n\
             \x20 command   \"a b\"\n\
             \x20 log       /logs/0.log\n\
             \x20 cgroup    /crisp/p1/c1\n"
        );
    }

    #[test]
    fn what_holds_a_container_back_is_told_with_it() {
        let held = |reasons: &[&str]| Some(reasons.iter().map(|r| (*r).to_owned()).collect());
        let text = container_text(&exited(), &Vec::new(), &held(&["pids 9/9", "1 zombie"]));
        assert!(
            text.ends_with("  held back   pids 9/9\n              1 zombie\n"),
            "{text}"
        );
        let text = container_text(&exited(), &Vec::new(), &held(&[]));
        assert!(
            text.ends_with("  held back   by nothing that is seen\n"),
            "{text}"
        );
    }

    #[test]
    fn hierarchies_are_told_together() {
        let cgroup = |directories: &[&str]| Cgroup {
            path: "/a/b".to_owned(),
            directories: directories.iter().map(PathBuf::from).collect(),
            ..Cgroup::default()
        };
        for (directories, told) in [
            (&["/cg/a/b"][..], "/cg"),
            (&["/cg/cpu/a/b", "/cg/pids/a/b"], "/cg/{cpu,pids}"),
            (&["/cg/cpu/a/b", "/dev/cg/a/b"], "/cg/cpu, /dev/cg"),
        ] {
            assert_eq!(hierarchies(&cgroup(directories)), told);
        }
    }

    /// A pod of which nothing is known but its place in a network.
    fn wired(place: &Value) -> String {
        let mut facts = json!({
            "id": "p1",
            "pid": null,
            "shimPid": null,
            "processStatus": "ready",
            "runtimeHandler": "",
            "netNamespace": "/run/netns/crisp-p1",
            "network": null,
            "bridge": null,
            "runDir": "/run/crisp/pods/p1",
            "cgroup": {"path": "/crisp/p1"},
            "config": crisp_model::PodConfig::default(),
            "containers": [],
        });
        for (name, value) in place.as_object().unwrap() {
            facts[name] = value.clone();
        }
        pod(&serde_json::from_value(facts).unwrap(), &None)
    }

    #[test]
    fn a_pod_tells_its_place_in_the_network() {
        let text = wired(&json!({
            "network": {
                "pod": "p1", "host_interface": "crisp0123456789", "pod_interface": "eth0",
                "addresses": ["10.87.0.2/16"], "gateways": ["10.87.0.1"], "mac": "02:c5:0a:57:00:02", "mtu": 1500,
                "port_mappings": [{"protocol": "tcp", "container_port": 80, "host_port": 8080, "host_ip": null}],
            },
            "bridge": "crisp0",
        }));
        for line in [
            "address     10.87.0.2/16 by 10.87.0.1\n",
            "veth        eth0 in the pod (02:c5:0a:57:00:02, MTU 1500), crisp0123456789 on bridge crisp0\n",
            "host port   8080 → 80 (tcp)\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_pod_on_an_uplink_tells_it() {
        let text = wired(&json!({
            "network": {
                "pod": "p1", "host_interface": "", "pod_interface": "eth0",
                "addresses": ["10.1.0.3/24"], "gateways": [], "mac": "02:c5:0a:57:00:02", "mtu": 1500,
                "port_mappings": [], "uplink": {"name": "eth7", "kind": {"ipvlan": "l3"}},
            },
        }));
        for line in [
            "address   10.1.0.3/24\n",
            "link      eth0 in the pod (02:c5:0a:57:00:02, MTU 1500), on eth7\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_pod_of_plugins_tells_them() {
        let text = wired(&json!({
            "cni": {
                "network": "cluster", "source": "/etc/cni/net.d/10-x.conflist", "plugins": ["bridge", "portmap"],
                "interface": "eth0", "addresses": ["10.87.0.2/16"], "result": {},
            },
        }));
        for line in [
            "address   10.87.0.2/16\n",
            "network   cluster by CNI plugins bridge, portmap, as /etc/cni/net.d/10-x.conflist said; eth0 in the pod\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
