//! What plugins answer to ADD (specification, section 5, "Success"), of every version. Plugins are
//! programs of others, and parts of their answers come from the network: nothing is taken on trust.

use crate::Version;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The most addresses that one interface gets.
const ADDRESSES_MAX: usize = 16;

/// An answer, in the version that was asked for. One without a version is of that; one of another is
/// brought to it, as plugins that do not look at the version do exist.
pub(crate) fn parse(text: &[u8], asked: Version) -> Result<Value, String> {
    let mut answer: Value =
        serde_json::from_slice(text).map_err(|e| format!("the answer is no JSON: {e}"))?;
    if !answer.is_object() {
        return Err("the answer is no JSON object".to_owned());
    }
    let said = match answer.get("cniVersion").and_then(Value::as_str) {
        None | Some("") => asked,
        Some(text) => text.parse().map_err(|e| format!("the answer: {e}"))?,
    };
    if has_interfaces(said) != has_interfaces(asked) {
        return Err(format!(
            "the answer is of version {said} instead of {asked}"
        ));
    }
    answer["cniVersion"] = json!(asked);
    if said != asked {
        tell_families(&mut answer, asked < Version::V1_0_0);
    }
    Ok(answer)
}

fn has_interfaces(version: Version) -> bool {
    version >= Version::V0_3_0
}

/// Before 1.0.0 addresses say their family.
fn tell_families(answer: &mut Value, tell: bool) {
    let ips = answer.get_mut("ips").and_then(Value::as_array_mut);
    for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
        let address = ip.get("address").and_then(Value::as_str);
        let family = if address.is_some_and(|a| a.contains(':')) {
            "6"
        } else {
            "4"
        };
        match tell {
            true => drop(ip.insert("version".to_owned(), json!(family))),
            false => drop(ip.remove("version")),
        }
    }
}

/// The addresses of the namespace's interface: those that the answer ties to it, and those that it ties
/// to none.
pub(crate) fn addresses(
    answer: &Value,
    asked: Version,
    interface: &str,
) -> Result<Vec<IpNet>, String> {
    let texts = match has_interfaces(asked) {
        true => of_interface(answer, interface)?,
        false => of_families(answer),
    };
    let mut addresses = Vec::new();
    for text in texts {
        let address = text.and_then(|text| text.parse::<IpNet>().ok());
        let address = address.filter(|address| can_be_a_hosts(address.addr()));
        let address = address.ok_or_else(|| {
            let text: String = text.unwrap_or_default().chars().take(60).collect();
            format!("{text:?} is no address of an interface")
        })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.len() {
        0 => Err(format!("interface {interface} got no address")),
        1..=ADDRESSES_MAX => Ok(addresses),
        many => Err(format!("interface {interface} got {many} addresses")),
    }
}

/// Up to 0.2.0 there is one address of each family.
fn of_families(answer: &Value) -> Vec<Option<&str>> {
    let families = ["ip4", "ip6"].map(|family| answer.get(family));
    let there = families.into_iter().flatten().filter(|v| !v.is_null());
    there.map(|family| family["ip"].as_str()).collect()
}

fn of_interface<'a>(answer: &'a Value, interface: &str) -> Result<Vec<Option<&'a str>>, String> {
    let list = |key: &str| answer.get(key).and_then(Value::as_array);
    let interfaces = list("interfaces").map_or(&[][..], Vec::as_slice);
    let mut found = Vec::new();
    for ip in list("ips").into_iter().flatten() {
        let tied = match ip.get("interface") {
            None | Some(Value::Null) => true,
            Some(index) => {
                let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
                let tied = index.and_then(|index| interfaces.get(index));
                is_inside(
                    tied.ok_or("an address belongs to an interface that is not there")?,
                    interface,
                )
            }
        };
        if tied {
            found.push(ip["address"].as_str());
        }
    }
    Ok(found)
}

/// Whether it is the interface of this name in the namespace; one of the host has no `sandbox`.
fn is_inside(described: &Value, name: &str) -> bool {
    let text = |key: &str| described[key].as_str().unwrap_or("");
    text("name") == name && !text("sandbox").is_empty()
}

fn can_be_a_hosts(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses_of(answer: Value, asked: Version) -> Result<Vec<String>, String> {
        let answer = parse(answer.to_string().as_bytes(), asked)?;
        let addresses = addresses(&answer, asked, "eth0")?;
        Ok(addresses.iter().map(IpNet::to_string).collect())
    }

    #[test]
    fn addresses_of_the_interface_are_found_in_every_version() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/16"}, "ip6": {"ip": "fd00::5/64"}});
        let interfaces = json!([
            {"name": "cni0", "mac": "02:00:00:00:00:01"},
            {"name": "veth1"},
            {"name": "eth0", "sandbox": "/run/netns/x"},
            {"name": "net1", "sandbox": "/run/netns/x"},
        ]);
        let new = |version: &str| {
            json!({"cniVersion": version, "interfaces": interfaces, "ips": [
                {"version": "4", "interface": 2, "address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"version": "6", "interface": 2, "address": "fd00::5/64"},
                {"version": "4", "interface": 3, "address": "192.168.7.7/24"},
                {"version": "4", "interface": 0, "address": "10.1.0.1/16"},
            ]})
        };
        let wanted = Ok(vec!["10.1.0.5/16".to_owned(), "fd00::5/64".to_owned()]);
        assert_eq!(addresses_of(old, Version::V0_2_0), wanted);
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            assert_eq!(
                addresses_of(new(version), version.parse().unwrap()),
                wanted,
                "{version}"
            );
        }
        let untied = json!({"ips": [{"address": "10.1.0.5/16"}, {"address": "10.1.0.5/16"}]});
        assert_eq!(
            addresses_of(untied, Version::V1_0_0),
            Ok(vec!["10.1.0.5/16".to_owned()])
        );
    }

    #[test]
    fn answers_of_another_version_are_brought_to_the_one_asked_for() {
        let answer = br#"{"cniVersion": "1.0.0", "ips": [{"address": "fd00::5/64"}]}"#;
        let old = parse(answer, Version::V0_4_0).unwrap();
        assert_eq!(old["cniVersion"], "0.4.0");
        assert_eq!(old["ips"][0]["version"], "6");
        let new = parse(old.to_string().as_bytes(), Version::V1_1_0).unwrap();
        assert_eq!(new["ips"][0], json!({"address": "fd00::5/64"}));
        assert!(parse(answer, Version::V0_2_0).is_err());
    }

    #[test]
    fn hostile_answers_are_refused() {
        let eth0 = json!([{"name": "eth0", "sandbox": "/x"}]);
        let ip = |address: &str| json!({"interfaces": eth0, "ips": [{"interface": 0, "address": address}]});
        let many: Vec<Value> = (0..100)
            .map(|n| json!({"address": format!("10.0.0.{n}/8")}))
            .collect();
        for answer in [
            json!({}),
            json!({"ips": []}),
            json!({"ips": {}}),
            json!({"ips": [{"interface": 0, "address": "10.0.0.1/8"}]}),
            json!({"interfaces": eth0, "ips": [{"interface": -1, "address": "10.0.0.1/8"}]}),
            json!({"interfaces": [{"name": "eth0"}], "ips": [{"interface": 0, "address": "10.0.0.1/8"}]}),
            json!({"ips": many}),
            ip("10.0.0.1"),
            ip("10.0.0.1/33"),
            ip("127.0.0.1/8"),
            ip("0.0.0.0/0"),
            ip("ff02::1/64"),
            ip("10.0.0.1/8\n"),
        ] {
            assert!(
                addresses_of(answer.clone(), Version::V1_0_0).is_err(),
                "{answer}"
            );
        }
        for text in ["", "[]", "null", "{\"cniVersion\": \"9\"}", "{} {}"] {
            assert!(parse(text.as_bytes(), Version::V1_0_0).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), Version::V1_0_0).is_err());
    }
}
