//! A slot's network of CNI plugins, and what plugins leave of it in the packet filter.

use crate::leftovers::run;
use crate::node::Node;
use crate::slot::Slot;
use anyhow::Result;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::slice;

impl Node {
    /// A network of Debian's plugins: a bridge with addresses of both families, host ports, bandwidths,
    /// and the plugins given behind them.
    #[must_use]
    pub fn cni_network(&self, more: &[Value]) -> Value {
        let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let more = [slice::from_ref(&bandwidth), more].concat();
        network(self.slot(), self.slot().cni_ranges(), &more)
    }

    /// Makes a network the one that pods to come are wired to.
    ///
    /// # Errors
    /// The disk is full.
    pub fn configure_cni(&self, network: &Value) -> Result<()> {
        let dir = self.dir().join("cni/net.d");
        fs::create_dir_all(&dir)?;
        let (new, path) = (dir.join("new"), self.cni_config());
        fs::write(&new, network.to_string())?;
        Ok(fs::rename(new, path)?)
    }

    /// The file that [`Node::configure_cni`] writes.
    #[must_use]
    pub fn cni_config(&self) -> PathBuf {
        self.dir().join("cni/net.d/10-e2e.conflist")
    }

    /// Installs a plugin that is a shell script. It runs in the test's scratch directory.
    ///
    /// # Errors
    /// The disk is full.
    pub fn cni_plugin(&self, name: &str, script: &str) -> Result<()> {
        let dir = self.dir().join("cni/bin");
        fs::create_dir_all(&dir)?;
        let (new, scratch) = (dir.join("new"), self.scratch()?);
        let text = format!("#!/bin/sh\ncd {} || exit 1\n{script}\n", scratch.display());
        fs::write(&new, text)?;
        fs::set_permissions(&new, Permissions::from_mode(0o755))?;
        Ok(fs::rename(new, dir.join(name))?)
    }

    /// The addresses that host-local has given to pods.
    #[must_use]
    pub fn cni_addresses(&self) -> Vec<String> {
        let given = addresses(self.slot());
        given.into_iter().map(|(address, _)| address).collect()
    }

    /// Where host-local keeps what it gives: a file for each address, under its name.
    pub(crate) fn cni_data_dir(&self) -> PathBuf {
        data_dir(self.slot()).join(self.slot().cni_network())
    }
}

/// A slot's network: a bridge with addresses of both families, host ports, and more plugins.
pub(crate) fn network(slot: &Slot, [ipv4, ipv6]: [String; 2], more: &[Value]) -> Value {
    let mut plugins = vec![
        json!({
            "type": "bridge",
            "bridge": slot.cni_bridge(),
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": data_dir(slot),
                "ranges": [[{"subnet": ipv4}], [{"subnet": ipv6}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }),
        json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}),
    ];
    plugins.extend_from_slice(more);
    json!({"cniVersion": "1.0.0", "name": slot.cni_network(), "plugins": plugins})
}

fn data_dir(slot: &Slot) -> PathBuf {
    slot.dir().join("cni/data")
}

/// The addresses that host-local has given, and to which pods.
pub(crate) fn addresses(slot: &Slot) -> Vec<(String, String)> {
    let entries = fs::read_dir(data_dir(slot).join(slot.cni_network()))
        .into_iter()
        .flatten()
        .flatten();
    let owned = entries.filter_map(|entry| {
        let address = entry.file_name().into_string().ok()?;
        let is_address =
            address.starts_with(|c: char| c.is_ascii_hexdigit()) && address.contains(['.', ':']);
        // The first line is the pod, the second its interface.
        let owner = fs::read_to_string(entry.path()).ok()?;
        let owner = owner.lines().next().unwrap_or_default().trim().to_owned();
        is_address.then_some((address, owner))
    });
    owned.collect()
}

/// A rule of the packet filter that plugins made for a slot's network.
struct Rule {
    command: &'static str,
    /// As iptables-save prints it, for a shell: `-A CHAIN …`.
    text: String,
}

/// The rules that name a slot's network.
pub(crate) fn rules(slot: &Slot) -> Vec<String> {
    find(slot).into_iter().map(|rule| rule.text).collect()
}

/// Removes them, and the chains that they lead to.
pub(crate) fn remove_rules(slot: &Slot) {
    let found = find(slot);
    for Rule { command, text } in &found {
        let deletion = text.replacen("-A", "-D", 1);
        run(
            slot,
            "sh",
            &["-c", &format!("{command} --wait -t nat {deletion}")],
        );
    }
    for Rule { command, text } in &found {
        let target = text.rsplit_once(" -j ").map_or("", |(_, target)| target);
        if target.starts_with("CNI-") {
            run(slot, command, &["--wait", "-t", "nat", "-F", target]);
            run(slot, command, &["--wait", "-t", "nat", "-X", target]);
        }
    }
}

fn find(slot: &Slot) -> Vec<Rule> {
    let name = slot.cni_network();
    let mut found = Vec::new();
    for command in ["iptables", "ip6tables"] {
        // Where there is no such program, plugins have made no rule.
        let listing = slot
            .command(format!("{command}-save"))
            .args(["-t", "nat"])
            .output();
        let listing = listing.map_or_else(|_| Vec::new(), |output| output.stdout);
        let listing = String::from_utf8_lossy(&listing);
        let rules = listing
            .lines()
            .filter(|line| line.starts_with("-A") && line.contains(&name));
        found.extend(rules.map(|line| Rule {
            command,
            text: line.to_owned(),
        }));
    }
    found
}
