//! What devices of the Container Device Interface change in a container.

use super::devices;
use crate::error::{Error, Result};
use crisp_cdi::{DeviceNode, Edits, HookPoint};
use crisp_model::ResolvedUser;
use crisp_model::spec::HostDevice;
use oci_spec::runtime::{Hook, HookBuilder, LinuxDeviceType, Mount, MountBuilder, Process, Spec};
use std::fs;
use std::path::Path;

/// Permission bits of a node whose description says none, as other runtimes have them.
const DEFAULT_MODE: u32 = 0o666;

/// Adds the nodes to those of the container, where they take the place of what has the same path.
/// Without an owner of their own they belong to the container's user.
pub(super) fn add_nodes(
    devices: &mut Vec<HostDevice>,
    edits: &Edits,
    user: &ResolvedUser,
) -> Result<()> {
    for node in &edits.device_nodes {
        let device = host_device(node, user)?;
        devices.retain(|other| other.container_path != device.container_path);
        devices.push(device);
    }
    Ok(())
}

fn host_device(node: &DeviceNode, user: &ResolvedUser) -> Result<HostDevice> {
    let path = Path::new(&node.path);
    let host = node.host_path.as_deref().map_or(path, Path::new);
    let refuse = |why: &str| {
        let reason = format!("device node {path:?} ({host:?} of the host) {why}");
        Err(Error::FailedPrecondition(format!("CDI: {reason}")))
    };
    if !path.is_absolute() || !host.is_absolute() {
        return refuse("has no absolute path");
    }
    let kind = match node.kind.as_deref() {
        None => None,
        Some("b") => Some(LinuxDeviceType::B),
        Some("c" | "u") => Some(LinuxDeviceType::C),
        Some(_) => return refuse("is neither a block nor a character device"),
    };
    let access = devices::access(node.permissions.as_deref().unwrap_or_default())?;
    let (kind, major, minor) = match (kind, node.major, node.minor) {
        (Some(kind), Some(major), Some(minor)) => (kind, major, minor),
        (kind, ..) => {
            let metadata = fs::metadata(host).map_err(Error::io("stat device", host))?;
            match devices::describe(&metadata, path, access) {
                Some(found) if kind.is_none_or(|kind| kind == found.kind) => (
                    found.kind,
                    node.major.unwrap_or(found.major),
                    node.minor.unwrap_or(found.minor),
                ),
                _ => return refuse("is no device of the kind that it ought to be"),
            }
        }
    };
    Ok(HostDevice {
        container_path: path.to_owned(),
        kind,
        major,
        minor,
        mode: node.file_mode.unwrap_or(DEFAULT_MODE),
        uid: node.uid.unwrap_or(user.uid),
        gid: node.gid.unwrap_or(user.gid),
        access: access.to_owned(),
    })
}

/// Makes all changes but that of device nodes.
pub(super) fn apply(edits: &Edits, spec: &mut Spec) -> Result<()> {
    if let Some(process) = spec.process_mut() {
        set_environment(process, &edits.env);
        add_groups(process, &edits.additional_gids);
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for edit in &edits.mounts {
        add_mount(&mut mounts, mount(edit)?);
    }
    spec.set_mounts(Some(mounts));
    add_hooks(spec, &edits.hooks)
}

fn add_hooks(spec: &mut Spec, edits: &[crisp_cdi::Hook]) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    for edit in edits {
        let hook = hook(edit)?;
        match edit.point {
            HookPoint::Prestart => {
                hooks.set_prestart(Some(with(hooks.prestart(), hook)));
            }
            HookPoint::CreateRuntime => {
                hooks.set_create_runtime(Some(with(hooks.create_runtime(), hook)));
            }
            HookPoint::CreateContainer => {
                hooks.set_create_container(Some(with(hooks.create_container(), hook)));
            }
            HookPoint::StartContainer => {
                hooks.set_start_container(Some(with(hooks.start_container(), hook)));
            }
            HookPoint::Poststart => {
                hooks.set_poststart(Some(with(hooks.poststart(), hook)));
            }
            HookPoint::Poststop => {
                hooks.set_poststop(Some(with(hooks.poststop(), hook)));
            }
        }
    }
    spec.set_hooks(Some(hooks));
    Ok(())
}

fn with(hooks: &Option<Vec<Hook>>, hook: Hook) -> Vec<Hook> {
    let mut hooks = hooks.clone().unwrap_or_default();
    hooks.push(hook);
    hooks
}

fn hook(edit: &crisp_cdi::Hook) -> Result<Hook> {
    let built = HookBuilder::default()
        .path(&edit.path)
        .args(edit.args.clone())
        .env(edit.env.clone())
        .build();
    let mut hook =
        built.map_err(|error| Error::Internal(format!("a hook of a CDI device: {error}")))?;
    hook.set_timeout(edit.timeout_s);
    Ok(hook)
}

fn set_environment(process: &mut Process, variables: &[String]) {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut all = process.env().clone().unwrap_or_default();
    for variable in variables {
        all.retain(|other| name(other) != name(variable));
        all.push(variable.clone());
    }
    process.set_env(Some(all));
}

/// Group 0 is given to nobody this way (CDI specification, "additionalGids").
fn add_groups(process: &mut Process, gids: &[u32]) {
    let mut all = process.user().additional_gids().clone().unwrap_or_default();
    for gid in gids {
        if *gid != 0 && !all.contains(gid) {
            all.push(*gid);
        }
    }
    let mut user = process.user().clone();
    user.set_additional_gids(Some(all));
    process.set_user(user);
}

fn mount(edit: &crisp_cdi::Mount) -> Result<Mount> {
    let mut options = edit.options.clone();
    let is_bind = options
        .iter()
        .any(|option| option == "bind" || option == "rbind");
    if edit.kind.is_none() && !is_bind {
        options.push("rbind".to_owned());
    }
    let built = MountBuilder::default()
        .destination(&edit.container_path)
        .source(&edit.host_path)
        .typ(edit.kind.as_deref().unwrap_or("bind"))
        .options(options)
        .build();
    built.map_err(|error| Error::Internal(format!("a mount of a CDI device: {error}")))
}

/// Below what it is mounted in, and above what is mounted in it.
fn add_mount(mounts: &mut Vec<Mount>, new: Mount) {
    mounts.retain(|mount| mount.destination() != new.destination());
    let below = |mount: &Mount| mount.destination().starts_with(new.destination());
    let place = mounts.iter().position(below).unwrap_or(mounts.len());
    mounts.insert(place, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> ResolvedUser {
        ResolvedUser {
            uid: 1000,
            gid: 33,
            groups: Vec::new(),
            home: "/".into(),
        }
    }

    fn node(host_path: &str) -> DeviceNode {
        DeviceNode {
            path: "/dev/x".into(),
            host_path: Some(host_path.into()),
            ..DeviceNode::default()
        }
    }

    #[test]
    fn a_node_is_as_described_and_otherwise_as_the_hosts() {
        let described = DeviceNode {
            kind: Some("b".into()),
            major: Some(7),
            minor: Some(8),
            file_mode: Some(0o600),
            permissions: Some("r".into()),
            uid: Some(0),
            ..node("/dev/none")
        };
        let mut devices = Vec::new();
        for node in [node("/dev/null"), described] {
            let edits = Edits {
                device_nodes: vec![node],
                ..Edits::default()
            };
            add_nodes(&mut devices, &edits, &user()).unwrap();
            assert_eq!(devices.len(), 1, "the later one takes the earlier's place");
            let device = &devices[0];
            let facts = (
                device.major,
                device.minor,
                device.mode,
                device.uid,
                device.gid,
            );
            let expected = match device.kind {
                LinuxDeviceType::C => (1, 3, 0o666, 1000, 33),
                _ => (7, 8, 0o600, 0, 33),
            };
            assert_eq!(facts, expected);
        }
        let block = DeviceNode {
            kind: Some("b".into()),
            ..node("/dev/null")
        };
        for wrong in [node("/etc/passwd"), node("null"), node("/dev/none"), block] {
            assert!(host_device(&wrong, &user()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_spec_is_changed_in_its_place() {
        let mut spec = Spec::default();
        let mounts = ["/proc", "/mnt/x/deeper", "/gone"];
        let mounts = mounts.map(|path| MountBuilder::default().destination(path).build().unwrap());
        spec.set_mounts(Some(mounts.to_vec()));
        let process = spec.process_mut().as_mut().unwrap();
        process.set_env(Some(vec!["PATH=/bin".into(), "A=1".into()]));
        let bind = |path: &str| crisp_cdi::Mount {
            host_path: "/srv".into(),
            container_path: path.into(),
            options: vec!["ro".into()],
            kind: None,
        };
        let edits = Edits {
            env: vec!["A=2".into(), "B=b=c".into()],
            mounts: vec![bind("/mnt/x"), bind("/gone")],
            additional_gids: vec![0, 44, 44],
            hooks: vec![crisp_cdi::Hook {
                point: HookPoint::Poststop,
                path: "/bin/hook".into(),
                args: vec!["hook".into(), "x".into()],
                env: Vec::new(),
                timeout_s: Some(3),
            }],
            ..Edits::default()
        };
        apply(&edits, &mut spec).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(
            process.env().as_deref().unwrap(),
            ["PATH=/bin", "A=2", "B=b=c"]
        );
        assert_eq!(process.user().additional_gids().as_deref().unwrap(), [44]);
        let hooks = spec.hooks().as_ref().unwrap();
        let hook = &hooks.poststop().as_ref().unwrap()[0];
        assert_eq!(
            (hook.path().as_path(), hook.timeout()),
            (Path::new("/bin/hook"), Some(3))
        );
        let mounts = spec.mounts().as_ref().unwrap();
        let paths: Vec<_> = mounts
            .iter()
            .map(|m| m.destination().to_str().unwrap())
            .collect();
        assert_eq!(paths, ["/proc", "/mnt/x", "/mnt/x/deeper", "/gone"]);
        assert_eq!(mounts[1].options().as_deref().unwrap(), ["ro", "rbind"]);
    }
}
