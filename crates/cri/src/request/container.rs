//! What is asked of a container.

use super::image::image_spec;
use super::namespaces::id_mapping;
use super::resources::resources;
use super::security::container_security;
use super::text::{
    RefusedText, absolute_path, absolute_path_or_empty, relative_path_or_empty, required,
    without_nul,
};
use super::{Invalid, Parsed, Within, known};
use crisp_cri_api::v1;
use crisp_model::signal::{signal_name, signal_number};
use crisp_model::{
    ContainerConfig, ContainerMetadata, Device, IdMapping, Mount, MountPropagation, StringMap,
};

/// Annotations that ask for CDI devices begin so; their values are lists separated by commas.
const CDI_ANNOTATION: &str = "cdi.k8s.io/";

/// What a device may be used for when nobody says it.
const DEFAULT_PERMISSIONS: &str = "rwm";

/// The whole configuration of a container.
pub(crate) fn container_config(config: Option<v1::ContainerConfig>) -> Parsed<ContainerConfig> {
    let config = config.ok_or_else(|| Invalid::required("config"))?;
    parse(config).within("config")
}

fn parse(config: v1::ContainerConfig) -> Parsed<ContainerConfig> {
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: metadata(config.metadata)?,
        image: image_spec(config.image)?,
        command: arguments(config.command, "command")?,
        args: arguments(config.args, "args")?,
        working_dir: absolute_path_or_empty(config.working_dir, "working_dir")?,
        envs: config.envs.into_iter().map(env).collect::<Parsed<_>>()?,
        mounts: config
            .mounts
            .into_iter()
            .map(mount)
            .collect::<Parsed<_>>()
            .within("mounts")?,
        devices: config
            .devices
            .into_iter()
            .map(device)
            .collect::<Parsed<_>>()
            .within("devices")?,
        cdi_devices: cdi_devices(config.cdi_devices, &config.annotations)?,
        labels: config.labels,
        annotations: config.annotations,
        log_path: relative_path_or_empty(config.log_path, "log_path")?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: resources(linux.resources.unwrap_or_default()).within("linux.resources")?,
        security: container_security(linux.security_context.unwrap_or_default())
            .within("linux.security_context")?,
        stop_signal: stop_signal(config.stop_signal)?,
    })
}

/// A command to run in a container.
pub(crate) fn command(command: Vec<String>) -> Parsed<Vec<String>> {
    match command.is_empty() {
        true => Err(Invalid::required("cmd")),
        false => arguments(command, "cmd"),
    }
}

fn metadata(metadata: Option<v1::ContainerMetadata>) -> Parsed<ContainerMetadata> {
    let metadata = metadata.ok_or_else(|| Invalid::required("metadata"))?;
    Ok(ContainerMetadata {
        name: required(metadata.name, "metadata.name")?,
        attempt: metadata.attempt,
    })
}

fn arguments(arguments: Vec<String>, field: &str) -> Parsed<Vec<String>> {
    arguments
        .into_iter()
        .map(|argument| without_nul(argument, field))
        .collect()
}

fn env(env: v1::KeyValue) -> Parsed<(String, String)> {
    let wrong = env.key.is_empty() || env.key.contains(['=', '\0']);
    env.key
        .refused_if(wrong, "envs", "is not the name of a variable")?;
    Ok((env.key, without_nul(env.value, "envs")?))
}

fn mount(mount: v1::Mount) -> Parsed<Mount> {
    let propagation = propagation(mount.propagation)?;
    if mount.recursive_read_only {
        recursive_read_only(mount.readonly, propagation)?;
    }
    one_source(&mount)?;
    let image = mount
        .image
        .map(|image| image_spec(Some(image)))
        .transpose()?;
    Ok(Mount {
        container_path: absolute_path(mount.container_path, "container_path")?,
        host_path: absolute_path_or_empty(mount.host_path, "host_path")?,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation,
        uid_mappings: id_mappings(&mount.uid_mappings, "uidMappings")?,
        gid_mappings: id_mappings(&mount.gid_mappings, "gidMappings")?,
        image,
        image_sub_path: relative_path_or_empty(mount.image_sub_path, "image_sub_path")?,
    })
}

/// What is mounted is either of the host or of an image.
fn one_source(mount: &v1::Mount) -> Parsed<()> {
    match (mount.image.is_some(), mount.host_path.is_empty()) {
        (true, false) => Err(Invalid::new("host_path", "is set beside an image")),
        (false, true) => Err(Invalid::required("host_path")),
        (false, false) if !mount.image_sub_path.is_empty() => {
            Err(Invalid::new("image_sub_path", "is set without an image"))
        }
        _ => Ok(()),
    }
}

fn propagation(propagation: i32) -> Parsed<MountPropagation> {
    Ok(match known(propagation, "propagation")? {
        v1::MountPropagation::PropagationPrivate => MountPropagation::Private,
        v1::MountPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
    })
}

fn recursive_read_only(readonly: bool, propagation: MountPropagation) -> Parsed<()> {
    match readonly && propagation == MountPropagation::Private {
        true => Ok(()),
        false => Err(Invalid::new(
            "recursive_read_only",
            "needs readonly and private propagation",
        )),
    }
}

fn id_mappings(mappings: &[v1::IdMapping], field: &str) -> Parsed<Vec<IdMapping>> {
    mappings
        .iter()
        .map(|mapping| id_mapping(mapping, field))
        .collect()
}

fn device(device: v1::Device) -> Parsed<Device> {
    let mut permissions = device.permissions;
    let wrong = permissions.contains(|c| !DEFAULT_PERMISSIONS.contains(c));
    permissions.refused_if(wrong, "permissions", "is not made of r, w and m")?;
    if permissions.is_empty() {
        permissions.push_str(DEFAULT_PERMISSIONS);
    }
    Ok(Device {
        container_path: absolute_path(device.container_path, "container_path")?,
        host_path: absolute_path(device.host_path, "host_path")?,
        permissions,
    })
}

/// Devices of the field first, then those of annotations; each once.
fn cdi_devices(field: Vec<v1::CdiDevice>, annotations: &StringMap) -> Parsed<Vec<String>> {
    let of_field = field.iter().map(|device| device.name.as_str());
    let of_annotations = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(CDI_ANNOTATION))
        .flat_map(|(_, value)| value.split(','));
    let mut names: Vec<String> = Vec::new();
    for name in of_field.chain(of_annotations) {
        let name = name.trim();
        name.refused_if(
            !is_qualified(name),
            "CDI_devices",
            "is not of the form vendor/class=device",
        )?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Container Device Interface specification, "Qualified device names".
fn is_qualified(name: &str) -> bool {
    let parts = name
        .split_once('/')
        .and_then(|(vendor, rest)| Some((vendor, rest.split_once('=')?)));
    let word = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'))
    };
    parts.is_some_and(|(vendor, (class, device))| word(vendor) && word(class) && word(device))
}

/// A signal of the CRI by its usual name; its numbers are not the kernel's.
fn stop_signal(signal: i32) -> Parsed<Option<String>> {
    match known::<v1::Signal>(signal, "stop_signal")? {
        v1::Signal::RuntimeDefault => Ok(None),
        signal => {
            let name = signal.as_str_name();
            let number = signal_number(name).ok_or_else(|| {
                Invalid::new("stop_signal", format!("{name} is no signal of this host"))
            })?;
            Ok(Some(signal_name(number)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;

    fn asked() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "web".into(),
                attempt: 3,
            }),
            image: Some(image("sha256:ab")),
            command: vec!["nginx".into()],
            args: vec!["-g".into(), "daemon off;".into()],
            working_dir: "/srv".into(),
            envs: vec![env_var("A", "1"), env_var("A", "2=3")],
            mounts: vec![bind("/host", "/data"), image_mount()],
            devices: vec![v1::Device {
                container_path: "/dev/x".into(),
                host_path: "/dev/y".into(),
                permissions: "rw".into(),
            }],
            cdi_devices: vec![v1::CdiDevice {
                name: "vendor.com/gpu=0".into(),
            }],
            annotations: [(
                "cdi.k8s.io/x".to_owned(),
                "vendor.com/gpu=1,vendor.com/gpu=0".to_owned(),
            )]
            .into(),
            log_path: "web/3.log".into(),
            stop_signal: v1::Signal::Sigrtminplus3.into(),
            ..Default::default()
        }
    }

    fn image(name: &str) -> v1::ImageSpec {
        v1::ImageSpec {
            image: name.into(),
            ..Default::default()
        }
    }

    fn env_var(key: &str, value: &str) -> v1::KeyValue {
        v1::KeyValue {
            key: key.into(),
            value: value.into(),
        }
    }

    fn bind(host_path: &str, container_path: &str) -> v1::Mount {
        v1::Mount {
            host_path: host_path.into(),
            container_path: container_path.into(),
            readonly: true,
            propagation: v1::MountPropagation::PropagationHostToContainer.into(),
            ..Default::default()
        }
    }

    fn image_mount() -> v1::Mount {
        v1::Mount {
            container_path: "/model".into(),
            image: Some(image("sha256:cd")),
            image_sub_path: "weights".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_whole_configuration_is_understood() {
        let config = container_config(Some(asked())).unwrap();
        assert_eq!(config.args, ["-g", "daemon off;"]);
        assert_eq!(config.envs[1], ("A".to_owned(), "2=3".to_owned()));
        assert_eq!(config.cdi_devices, ["vendor.com/gpu=0", "vendor.com/gpu=1"]);
        assert_eq!(config.devices[0].permissions, "rw");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(config.mounts[1].image.as_ref().unwrap().image, "sha256:cd");
    }

    #[test]
    fn mounts_come_back_as_they_were_sent() {
        let mapping = v1::IdMapping {
            host_id: 1000,
            container_id: 0,
            length: 10,
        };
        let mapped = v1::Mount {
            uid_mappings: vec![mapping],
            gid_mappings: vec![mapping],
            propagation: v1::MountPropagation::PropagationPrivate.into(),
            recursive_read_only: true,
            selinux_relabel: true,
            ..bind("/a", "/b")
        };
        for sent in [bind("/host", "/data"), image_mount(), mapped] {
            let parsed = mount(sent.clone()).unwrap();
            assert_eq!(answer::mount(&parsed, |_| String::new()), sent);
        }
    }

    #[test]
    fn every_signal_comes_back_as_itself_or_its_other_name() {
        for number in 1..=65 {
            let signal = v1::Signal::try_from(number).unwrap();
            let name = stop_signal(number).unwrap().unwrap();
            let back = answer::signal(signal_number(&name).unwrap());
            let same = |name: &str| signal_number(name);
            assert_eq!(same(back.as_str_name()), same(signal.as_str_name()));
        }
        assert_eq!(stop_signal(0).unwrap(), None);
        assert_eq!(stop_signal(66).unwrap_err().field, "stop_signal");
    }

    #[test]
    fn what_is_malformed_is_refused_by_field() {
        type Change = fn(&mut v1::ContainerConfig);
        let table: [(&str, Change); 24] = [
            ("metadata", |c| c.metadata = None),
            ("metadata.name", |c| {
                c.metadata = Some(v1::ContainerMetadata::default());
            }),
            ("image", |c| c.image = None),
            ("image.image", |c| c.image = Some(image(""))),
            ("command", |c| c.command = vec!["a\0".into()]),
            ("args", |c| c.args = vec!["\0".into()]),
            ("working_dir", |c| c.working_dir = "srv".into()),
            ("envs", |c| c.envs = vec![env_var("", "x")]),
            ("envs", |c| c.envs = vec![env_var("A=B", "x")]),
            ("envs", |c| c.envs = vec![env_var("A", "x\0")]),
            ("mounts.container_path", |c| {
                c.mounts = vec![bind("/a", "b")]
            }),
            ("mounts.host_path", |c| c.mounts = vec![bind("a", "/b")]),
            ("mounts.host_path", |c| c.mounts = vec![bind("", "/b")]),
            ("mounts.host_path", |c| c.mounts[1].host_path = "/a".into()),
            ("mounts.image.image", |c| {
                c.mounts[1].image = Some(image(""))
            }),
            ("mounts.image_sub_path", |c| {
                c.mounts[1].image_sub_path = "../x".into();
            }),
            ("mounts.image_sub_path", |c| {
                c.mounts[0].image_sub_path = "x".into();
            }),
            ("mounts.propagation", |c| c.mounts[0].propagation = 3),
            ("mounts.recursive_read_only", |c| {
                c.mounts[0].recursive_read_only = true;
            }),
            ("mounts.uidMappings", |c| {
                c.mounts[0].uid_mappings = vec![v1::IdMapping::default()];
            }),
            ("devices.permissions", |c| {
                c.devices[0].permissions = "rx".into();
            }),
            ("CDI_devices", |c| c.cdi_devices[0].name = "gpu0".into()),
            ("log_path", |c| c.log_path = "../../etc/x".into()),
            ("linux.resources.oom_score_adj", |c| {
                c.linux = Some(v1::LinuxContainerConfig {
                    resources: Some(v1::LinuxContainerResources {
                        oom_score_adj: -2000,
                        ..Default::default()
                    }),
                    ..Default::default()
                });
            }),
        ];
        for (field, change) in table {
            let mut config = asked();
            change(&mut config);
            let invalid = container_config(Some(config)).unwrap_err();
            assert_eq!(invalid.field, format!("config.{field}"));
        }
        assert_eq!(container_config(None).unwrap_err().field, "config");
    }

    #[test]
    fn a_command_must_name_a_program() {
        assert_eq!(command(vec![]).unwrap_err().field, "cmd");
        assert_eq!(command(vec!["a\0".into()]).unwrap_err().field, "cmd");
        assert_eq!(command(vec!["ls".into()]).unwrap(), ["ls"]);
    }
}
