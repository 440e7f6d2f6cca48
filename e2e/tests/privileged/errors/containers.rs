//! Configurations of containers that cannot be.

use super::{Refusals, id};
use anyhow::{Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::{Node, image_spec, resources, security};
use tonic::Code;

type ContainerEdit = fn(&mut ContainerConfig);

fn bind(host_path: &str, container_path: &str) -> Mount {
    Mount {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        ..Mount::default()
    }
}

fn device(host_path: &str, container_path: &str, permissions: &str) -> Device {
    Device {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        permissions: permissions.to_owned(),
    }
}

fn env(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// A path with a component longer than file systems take (`NAME_MAX`, limits.h).
fn long_name() -> String {
    format!("/{}", "n".repeat(300))
}

/// A path longer than system calls take (`PATH_MAX`, limits.h).
fn long_path() -> String {
    "/directory".repeat(500)
}

const BAD_CONTAINERS: [(&str, ContainerEdit); 35] = [
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| {
        c.metadata = Some(ContainerMetadata::default())
    }),
    ("image", |c| c.image = None),
    ("image", |c| c.image = Some(image_spec(""))),
    ("command", |c| c.command = vec!["nul\0".to_owned()]),
    ("args", |c| c.args = vec!["\0".to_owned()]),
    ("working_dir", |c| c.working_dir = "relative".to_owned()),
    ("working_dir", |c| c.working_dir = "/a/../b".to_owned()),
    ("working_dir", |c| c.working_dir = long_name()),
    ("working_dir", |c| c.working_dir = long_path()),
    ("envs", |c| c.envs = vec![env("", "x")]),
    ("envs", |c| c.envs = vec![env("A=B", "x")]),
    ("envs", |c| c.envs = vec![env("A", "\0")]),
    ("log_path", |c| c.log_path = "/etc/log".to_owned()),
    ("log_path", |c| c.log_path = "../../log".to_owned()),
    ("log_path", |c| c.log_path = "a\0b".to_owned()),
    ("log_path", |c| c.log_path = long_name()[1..].to_owned()),
    ("stop_signal", |c| c.stop_signal = 99),
    ("mounts.container_path", |c| {
        c.mounts = vec![bind("/tmp", "")]
    }),
    ("mounts.container_path", |c| {
        c.mounts = vec![bind("/tmp", "relative")]
    }),
    ("mounts.container_path", |c| {
        c.mounts = vec![bind("/tmp", &long_name())]
    }),
    ("mounts.host_path", |c| c.mounts = vec![bind("", "/mnt")]),
    ("mounts.host_path", |c| {
        c.mounts = vec![bind("/tmp/..", "/mnt")]
    }),
    ("mounts.host_path", |c| {
        c.mounts = vec![bind(&long_path(), "/mnt")]
    }),
    ("mounts.propagation", |c| {
        let mount = Mount {
            propagation: 99,
            ..bind("/tmp", "/mnt")
        };
        c.mounts = vec![mount];
    }),
    ("devices.permissions", |c| {
        c.devices = vec![device("/dev/null", "/dev/x", "rwx")]
    }),
    ("devices.container_path", |c| {
        c.devices = vec![device("/dev/null", "x", "r")]
    }),
    ("CDI_devices", |c| {
        let name = "no such form".to_owned();
        c.cdi_devices = vec![CdiDevice { name }];
    }),
    ("resources.cpu_period", |c| resources(c).cpu_period = -1),
    ("memory", |c| resources(c).memory_limit_in_bytes = -7),
    ("swap", |c| {
        resources(c).memory_limit_in_bytes = 1 << 26;
        resources(c).memory_swap_limit_in_bytes = i64::MIN;
    }),
    ("cpuset", |c| resources(c).cpuset_cpus = "4000".to_owned()),
    ("run_as_user", |c| security(c).run_as_user = id(1 << 40)),
    ("run_as_username", |c| {
        security(c).run_as_username = "a\nb".to_owned()
    }),
    ("capabilities", |c| {
        let capabilities = security(c).capabilities.get_or_insert_default();
        capabilities.add_capabilities.push("NO_SUCH".to_owned());
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn privileged_bad_containers_are_refused_by_field_and_leave_nothing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let mut refusals = Refusals::default();
    let empty = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        ..CreateContainerRequest::default()
    };
    let empty = node.runtime().create_container(empty).await;
    refusals.check("no config", empty, Code::InvalidArgument, "config");
    for (index, (field, spoil)) in BAD_CONTAINERS.into_iter().enumerate() {
        let what = format!("container {index} with a bad {field}");
        let answer = pod.create("bad", spoil).await;
        refusals.check(&what, answer, Code::InvalidArgument, field);
    }
    let absent = "docker.io/library/absent:1";
    let absent = pod.create("c", |config| config.image = Some(image_spec(absent)));
    refusals.check(
        "an image that was not pulled",
        absent.await,
        Code::NotFound,
        "absent",
    );
    ensure!(
        node.containers().await?.is_empty(),
        "a bad container is listed"
    );
    refusals.finish()?;
    ensure!(pod.start("bad", |_| ()).await?.sh("echo good").await? == "good");
    node.finish().await
}
