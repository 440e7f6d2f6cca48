//! What is asked of a pod, and of the node's network.

use super::resources::resources;
use super::security::pod_security;
use super::text::{RefusedText, absolute_path_or_empty, one_line, one_word, required, sure_path};
use super::{Invalid, Parsed, Within, known};
use crisp_cri_api::v1;
use crisp_model::{DnsConfig, PodConfig, PodMetadata, PortMapping, Protocol, StringMap};
use ipnet::IpNet;

/// The longest host name (`HOST_NAME_MAX`, gethostname(2)), in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;

/// The whole configuration of a pod.
pub(crate) fn pod_config(config: Option<v1::PodSandboxConfig>) -> Parsed<PodConfig> {
    let config = config.ok_or_else(|| Invalid::required("config"))?;
    parse(config).within("config")
}

fn parse(config: v1::PodSandboxConfig) -> Parsed<PodConfig> {
    let linux = config.linux.unwrap_or_default();
    let log_directory = absolute_path_or_empty(config.log_directory, "log_directory")?;
    Ok(PodConfig {
        metadata: metadata(config.metadata)?,
        hostname: hostname(config.hostname)?,
        log_directory: (!log_directory.is_empty()).then(|| log_directory.into()),
        dns: config
            .dns_config
            .map(dns)
            .transpose()
            .within("dns_config")?,
        port_mappings: port_mappings(&config.port_mappings).within("port_mappings")?,
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent: cgroup_parent(linux.cgroup_parent)?,
        sysctls: sysctls(linux.sysctls)?,
        overhead: limits(linux.overhead, "linux.overhead")?,
        resources: limits(linux.resources, "linux.resources")?,
        security: pod_security(linux.security_context.unwrap_or_default())
            .within("linux.security_context")?,
    })
}

fn metadata(metadata: Option<v1::PodSandboxMetadata>) -> Parsed<PodMetadata> {
    let metadata = metadata.ok_or_else(|| Invalid::required("metadata"))?;
    Ok(PodMetadata {
        name: required(metadata.name, "metadata.name")?,
        uid: required(metadata.uid, "metadata.uid")?,
        namespace: required(metadata.namespace, "metadata.namespace")?,
        attempt: metadata.attempt,
    })
}

fn hostname(name: String) -> Parsed<String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let wrong = name.len() > HOSTNAME_BYTES_MAX || !name.chars().all(letter);
    name.refused_if(
        wrong,
        "hostname",
        "is not a host name of at most 64 letters",
    )?;
    Ok(name)
}

fn dns(config: v1::DnsConfig) -> Parsed<DnsConfig> {
    let words = |words: Vec<String>, field: &str| -> Parsed<Vec<String>> {
        words
            .into_iter()
            .map(|word| one_word(word, field))
            .collect()
    };
    Ok(DnsConfig {
        servers: words(config.servers, "servers")?,
        searches: words(config.searches, "searches")?,
        options: words(config.options, "options")?,
    })
}

/// Mappings without a host port ask for nothing.
fn port_mappings(mappings: &[v1::PortMapping]) -> Parsed<Vec<PortMapping>> {
    let mappings: Vec<_> = mappings.iter().map(port_mapping).collect::<Parsed<_>>()?;
    Ok(mappings.into_iter().flatten().collect())
}

fn port_mapping(mapping: &v1::PortMapping) -> Parsed<Option<PortMapping>> {
    let host_port = port(mapping.host_port, "host_port")?;
    let container_port = port(mapping.container_port, "container_port")?;
    let protocol = protocol(mapping.protocol)?;
    if host_port == 0 {
        return Ok(None);
    }
    if container_port == 0 {
        return Err(Invalid::required("container_port"));
    }
    Ok(Some(PortMapping {
        protocol,
        container_port,
        host_port,
        host_ip: host_ip(&mapping.host_ip)?,
    }))
}

/// The ports of a port-forward.
pub(crate) fn ports(numbers: &[i32]) -> Parsed<Vec<u16>> {
    numbers.iter().map(|number| port(*number, "port")).collect()
}

fn port(number: i32, field: &str) -> Parsed<u16> {
    u16::try_from(number)
        .map_err(|_| Invalid::new(field, format!("{number} is not between 0 and 65535")))
}

fn protocol(protocol: i32) -> Parsed<Protocol> {
    Ok(match known(protocol, "protocol")? {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    })
}

fn host_ip(address: &str) -> Parsed<Option<std::net::IpAddr>> {
    if address.is_empty() {
        return Ok(None);
    }
    let parsed = address
        .parse()
        .map_err(|_| Invalid::new("host_ip", format!("{address:?} is not an IP address")))?;
    Ok(Some(parsed))
}

fn cgroup_parent(parent: String) -> Parsed<Option<String>> {
    let parent = sure_path(parent, "linux.cgroup_parent")?;
    Ok((!parent.is_empty()).then_some(parent))
}

/// Names are those of files below /proc/sys with dots or slashes between the parts (sysctl(8)).
fn sysctls(sysctls: StringMap) -> Parsed<StringMap> {
    const FIELD: &str = "linux.sysctls";
    for (name, value) in &sysctls {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let part = |part: &str| !part.is_empty() && part.chars().all(letter);
        name.refused_if(
            !name.split(['.', '/']).all(part),
            FIELD,
            "is not the name of a sysctl",
        )?;
        one_line(value.clone(), FIELD)?;
    }
    Ok(sysctls)
}

fn limits(
    asked: Option<v1::LinuxContainerResources>,
    field: &str,
) -> Parsed<Option<crisp_model::Resources>> {
    asked.map(resources).transpose().within(field)
}

/// The ranges that pods' addresses are taken from: separated by commas, one per IP family.
pub(crate) fn pod_cidrs(config: Option<v1::RuntimeConfig>) -> Parsed<Vec<IpNet>> {
    const FIELD: &str = "runtime_config.network_config.pod_cidr";
    let text = config
        .and_then(|config| config.network_config)
        .map(|network| network.pod_cidr)
        .unwrap_or_default();
    let cidr = |cidr: &str| -> Parsed<IpNet> {
        cidr.trim()
            .parse()
            .map_err(|_| Invalid::new(FIELD, format!("{cidr:?} is not an address range")))
    };
    text.split(',')
        .filter(|range| !range.trim().is_empty())
        .map(cidr)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 2,
            }),
            hostname: "web-0".into(),
            log_directory: "/var/log/pods/web".into(),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.0.0.10".into()],
                searches: vec!["svc.cluster.local".into()],
                options: vec!["ndots:5".into()],
            }),
            port_mappings: vec![mapping(0, 0), mapping(80, 8080)],
            labels: [("app".to_owned(), "web".to_owned())].into(),
            annotations: [("note".to_owned(), "x".to_owned())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods/pod1".into(),
                sysctls: [("net.ipv4.ping_group_range".to_owned(), "0 1".to_owned())].into(),
                ..Default::default()
            }),
            windows: None,
        }
    }

    fn mapping(container_port: i32, host_port: i32) -> v1::PortMapping {
        v1::PortMapping {
            protocol: v1::Protocol::Udp.into(),
            container_port,
            host_port,
            host_ip: "::1".into(),
        }
    }

    #[test]
    fn a_whole_configuration_is_understood() {
        let config = pod_config(Some(asked())).unwrap();
        assert_eq!(config.metadata.attempt, 2);
        assert_eq!(config.log_directory, Some("/var/log/pods/web".into()));
        assert_eq!(config.dns.unwrap().options, ["ndots:5"]);
        assert_eq!(config.cgroup_parent.as_deref(), Some("/kubepods/pod1"));
        assert_eq!(config.overhead, None);
        let expected = PortMapping {
            protocol: Protocol::Udp,
            container_port: 80,
            host_port: 8080,
            host_ip: Some("::1".parse().unwrap()),
        };
        assert_eq!(config.port_mappings, [expected]);
    }

    #[test]
    fn metadata_alone_is_enough() {
        let least = v1::PodSandboxConfig {
            metadata: asked().metadata,
            ..Default::default()
        };
        let config = pod_config(Some(least)).unwrap();
        assert_eq!(config.log_directory, None);
        assert_eq!(config.dns, None);
        assert_eq!(config.cgroup_parent, None);
    }

    #[test]
    fn what_is_malformed_is_refused_by_field() {
        type Change = fn(&mut v1::PodSandboxConfig);
        fn meta(config: &mut v1::PodSandboxConfig) -> &mut v1::PodSandboxMetadata {
            config.metadata.as_mut().unwrap()
        }
        fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
            config.linux.as_mut().unwrap()
        }
        fn sysctl(config: &mut v1::PodSandboxConfig, name: &str, value: &str) {
            linux(config).sysctls.insert(name.into(), value.into());
        }
        let table: [(&str, Change); 19] = [
            ("metadata", |c| c.metadata = None),
            ("metadata.name", |c| meta(c).name.clear()),
            ("metadata.uid", |c| meta(c).uid.clear()),
            ("metadata.namespace", |c| meta(c).namespace.clear()),
            ("hostname", |c| c.hostname = "a b".into()),
            ("hostname", |c| c.hostname = "a".repeat(65)),
            ("log_directory", |c| c.log_directory = "logs".into()),
            ("dns_config.options", |c| {
                c.dns_config.as_mut().unwrap().options = vec!["a\nnameserver 1".into()];
            }),
            ("port_mappings.host_port", |c| {
                c.port_mappings[0].host_port = -1
            }),
            ("port_mappings.container_port", |c| {
                c.port_mappings[1].container_port = 65536;
            }),
            ("port_mappings.container_port", |c| {
                c.port_mappings[1].container_port = 0;
            }),
            ("port_mappings.host_ip", |c| {
                c.port_mappings[1].host_ip = "localhost".into();
            }),
            ("port_mappings.protocol", |c| {
                c.port_mappings[1].protocol = 3
            }),
            ("linux.cgroup_parent", |c| {
                linux(c).cgroup_parent = "/a/../..".into()
            }),
            ("linux.sysctls", |c| sysctl(c, "net..x", "1")),
            ("linux.sysctls", |c| sysctl(c, "a+b", "1")),
            ("linux.sysctls", |c| sysctl(c, "a.b", "1\n2")),
            ("linux.overhead.cpu_shares", |c| {
                linux(c).overhead = Some(v1::LinuxContainerResources {
                    cpu_shares: -1,
                    ..Default::default()
                });
            }),
            ("linux.security_context.run_as_user", |c| {
                linux(c).security_context = Some(v1::LinuxSandboxSecurityContext {
                    run_as_user: Some(v1::Int64Value { value: -1 }),
                    ..Default::default()
                });
            }),
        ];
        for (field, change) in table {
            let mut config = asked();
            change(&mut config);
            let invalid = pod_config(Some(config)).unwrap_err();
            assert_eq!(invalid.field, format!("config.{field}"));
        }
        assert_eq!(pod_config(None).unwrap_err().field, "config");
    }

    #[test]
    fn pod_cidrs_are_a_list_of_ranges() {
        let cidrs = |text: &str| {
            pod_cidrs(Some(v1::RuntimeConfig {
                network_config: Some(v1::NetworkConfig {
                    pod_cidr: text.to_owned(),
                }),
            }))
        };
        let both = cidrs("10.1.0.0/24, fd00::/64").unwrap();
        assert_eq!(
            both,
            [
                "10.1.0.0/24".parse::<IpNet>().unwrap(),
                "fd00::/64".parse().unwrap()
            ]
        );
        assert!(cidrs("").unwrap().is_empty());
        assert!(pod_cidrs(None).unwrap().is_empty());
        assert!(
            cidrs("10.1.0.0/33")
                .unwrap_err()
                .field
                .ends_with("pod_cidr")
        );
    }
}
