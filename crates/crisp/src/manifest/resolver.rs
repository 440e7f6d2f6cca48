//! A pod's resolv.conf (resolv.conf(5)), from its manifest and the host's.

use super::schema::{DnsConfig, DnsPolicy, Spec};
use crisp_cri_api::v1;

/// None: the host's, as it is.
pub(super) fn dns_config(spec: &Spec, host: &str) -> Option<v1::DnsConfig> {
    match (spec.dns_policy, &spec.dns_config) {
        (DnsPolicy::None, None) => Some(v1::DnsConfig::default()),
        (DnsPolicy::None, Some(own)) => Some(merge(v1::DnsConfig::default(), own)),
        (_, None) => None,
        (_, Some(own)) => Some(merge(read(host), own)),
    }
}

/// As the kubelet merges: servers and searches are added, an option replaces the one of its name.
fn merge(mut config: v1::DnsConfig, own: &DnsConfig) -> v1::DnsConfig {
    let servers = own.nameservers.iter().map(ToString::to_string);
    add(&mut config.servers, servers);
    add(&mut config.searches, own.searches.iter().cloned());
    for option in &own.options {
        config
            .options
            .retain(|known| known.split(':').next() != Some(&option.name));
        config.options.push(match &option.value {
            Some(value) => format!("{}:{value}", option.name),
            None => option.name.clone(),
        });
    }
    config
}

fn add(all: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !all.contains(&item) {
            all.push(item);
        }
    }
}

fn read(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            // The last line counts.
            Some("search" | "domain") => config.searches = words.collect(),
            Some("options") => config.options.extend(words),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HOST: &str =
        "# by hand\nnameserver 10.0.0.1\nsearch a.example b.example\noptions ndots:1 rotate\n";

    fn config(spec: Value) -> Option<v1::DnsConfig> {
        let mut whole = json!({"containers": []});
        whole
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        dns_config(&serde_json::from_value(whole).unwrap(), HOST)
    }

    #[test]
    fn a_pod_adds_to_the_hosts_or_stands_alone() {
        assert_eq!(config(json!({})), None);
        let own = json!({
            "nameservers": ["1.1.1.1", "10.0.0.1"],
            "searches": ["c.example"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}],
        });
        let both = config(json!({"dnsConfig": own})).unwrap();
        assert_eq!(both.servers, ["10.0.0.1", "1.1.1.1"]);
        assert_eq!(both.searches, ["a.example", "b.example", "c.example"]);
        assert_eq!(both.options, ["rotate", "ndots:5", "edns0"]);
        let alone = config(json!({"dnsConfig": own, "dnsPolicy": "None"})).unwrap();
        assert_eq!(alone.servers, ["1.1.1.1", "10.0.0.1"]);
        assert_eq!(alone.searches, ["c.example"]);
    }
}
