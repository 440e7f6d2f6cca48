//! Configurations of pods that cannot be.

use super::{Refusals, id};
use anyhow::{Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::Node;
use tonic::Code;

type PodEdit = fn(&mut PodSandboxConfig);

fn metadata(config: &mut PodSandboxConfig) -> &mut PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn linux(config: &mut PodSandboxConfig) -> &mut LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn pod_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

fn options(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    pod_security(config)
        .namespace_options
        .get_or_insert_default()
}

/// The field that is named, and how a usual configuration is spoiled.
const BAD_PODS: [(&str, PodEdit); 25] = [
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| metadata(c).name.clear()),
    ("metadata.uid", |c| metadata(c).uid.clear()),
    ("metadata.namespace", |c| metadata(c).namespace.clear()),
    ("hostname", |c| c.hostname = "a".repeat(65)),
    ("hostname", |c| c.hostname = "a".repeat(100_000)),
    ("hostname", |c| c.hostname = "two words".to_owned()),
    ("hostname", |c| c.hostname = "nul\0".to_owned()),
    ("log_directory", |c| c.log_directory = "logs".to_owned()),
    ("log_directory", |c| {
        c.log_directory = "/tmp/../etc".to_owned()
    }),
    ("log_directory", |c| {
        c.log_directory = "/tmp/nul\0".to_owned()
    }),
    ("dns_config.servers", |c| {
        let server = "10.0.0.1\nsearch evil".to_owned();
        c.dns_config.get_or_insert_default().servers.push(server);
    }),
    ("port_mappings.host_port", |c| {
        c.port_mappings.push(port_mapping(80, -1))
    }),
    ("port_mappings.container_port", |c| {
        c.port_mappings.push(port_mapping(70_000, 8080))
    }),
    ("port_mappings.protocol", |c| {
        let mapping = PortMapping {
            protocol: 99,
            ..port_mapping(80, 8080)
        };
        c.port_mappings.push(mapping);
    }),
    ("port_mappings.host_ip", |c| {
        let mapping = PortMapping {
            host_ip: "everywhere".to_owned(),
            ..port_mapping(80, 8080)
        };
        c.port_mappings.push(mapping);
    }),
    ("cgroup_parent", |c| {
        linux(c).cgroup_parent = "/a/../../b".to_owned()
    }),
    ("sysctls", |c| {
        let (name, value) = ("net.ipv4.ip_forward+x".to_owned(), "1".to_owned());
        linux(c).sysctls.insert(name, value);
    }),
    ("sysctls", |c| {
        let (name, value) = ("kernel/../vm/swappiness".to_owned(), "1".to_owned());
        linux(c).sysctls.insert(name, value);
    }),
    ("resources.cpu_shares", |c| {
        linux(c).resources.get_or_insert_default().cpu_shares = -1;
    }),
    ("overhead.oom_score_adj", |c| {
        linux(c).overhead.get_or_insert_default().oom_score_adj = i64::MIN;
    }),
    ("run_as_user", |c| pod_security(c).run_as_user = id(-1)),
    ("run_as_group", |c| pod_security(c).run_as_group = id(5)),
    ("namespace_options.network", |c| options(c).network = 99),
    ("supplemental_groups_policy", |c| {
        pod_security(c).supplemental_groups_policy = 99;
    }),
];

fn port_mapping(container_port: i32, host_port: i32) -> PortMapping {
    PortMapping {
        container_port,
        host_port,
        ..PortMapping::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_bad_pods_are_refused_by_field_and_leave_nothing() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let mut refusals = Refusals::default();
    let empty = RunPodSandboxRequest::default();
    let empty = node.runtime().run_pod_sandbox(empty).await;
    refusals.check("no config", empty, Code::InvalidArgument, "config");
    for (index, (field, spoil)) in BAD_PODS.into_iter().enumerate() {
        let what = format!("pod {index} with a bad {field}");
        // Not the harness's way: it makes the log directory first, as the kubelet would.
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "bad".to_owned(),
                uid: "uid".to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            ..PodSandboxConfig::default()
        };
        spoil(&mut config);
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let answer = node.runtime().run_pod_sandbox(request).await;
        refusals.check(&what, answer, Code::InvalidArgument, field);
    }
    let unknown = node
        .run_pod_with_handler("pod", "no-such-handler", |_| ())
        .await;
    refusals.check(
        "an unknown handler",
        unknown,
        Code::InvalidArgument,
        "no-such-handler",
    );
    ensure!(node.pods().await?.is_empty(), "a bad pod is listed");
    node.audit().await?;
    refusals.finish()?;
    node.finish().await
}
