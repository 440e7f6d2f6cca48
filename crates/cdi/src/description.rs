//! One file of descriptions, JSON or YAML.

use serde::{Deserialize, de::IgnoredAny};
use std::path::{Path, PathBuf};

/// Versions of the format that are understood, up to and with this one.
const NEWEST_VERSION: (u32, u32) = (1, 1);

/// A file's devices, all of one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Description {
    cdi_version: String,
    /// `vendor/class`.
    pub(crate) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: IgnoredAny,
    pub(crate) devices: Vec<Device>,
    /// For a container with any of the devices.
    #[serde(default)]
    pub(crate) container_edits: RawEdits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: IgnoredAny,
    #[serde(default)]
    pub(crate) container_edits: RawEdits,
}

/// Changes to a container, with those that no container can have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RawEdits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<Mount>,
    additional_gids: Vec<u32>,
    hooks: Vec<Hook>,
    intel_rdt: Option<IgnoredAny>,
    net_devices: Vec<IgnoredAny>,
}

/// Changes to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// `NAME=value`; one that is there is replaced.
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    pub additional_gids: Vec<u32>,
    pub hooks: Vec<Hook>,
}

/// A program that the runtime executes at a point of the container's life (OCI runtime spec, "Hooks").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    #[serde(rename = "hookName")]
    pub point: HookPoint,
    pub path: PathBuf,
    /// The whole argument vector; empty: the path alone.
    #[serde(default)]
    pub args: Vec<String>,
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default, rename = "timeout")]
    pub timeout_s: Option<i64>,
}

/// When a hook is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookPoint {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// A device node in a container. What is left out of its numbers is as the host's node has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// None: the same path.
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p` (mknod(1)).
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Some of `r`, `w` and `m`, for the cgroup; none: all.
    pub permissions: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A mount in a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default)]
    pub options: Vec<String>,
    /// None: a bind mount.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

impl Description {
    /// The text of a file whose name tells its format. The error is what is wrong with it.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, String> {
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let description: Self = match is_json {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            false => serde_saphyr::from_str(text).map_err(|error| error.to_string())?,
        };
        description.check().map(|()| description)
    }

    fn check(&self) -> Result<(), String> {
        let version = &self.cdi_version;
        match version_of(version) {
            None => return Err(format!("cdiVersion {version:?} is no version")),
            Some(newer) if newer > NEWEST_VERSION => {
                return Err(format!("cdiVersion {version} is not known"));
            }
            Some(_) => {}
        }
        let kind = self.kind.split_once('/');
        if !kind.is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty()) {
            return Err(format!(
                "kind {:?} is not of the form vendor/class",
                self.kind
            ));
        }
        Ok(())
    }
}

fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl RawEdits {
    /// What of it no container can have.
    pub(crate) fn unsupported(&self) -> Option<&'static str> {
        [
            (self.intel_rdt.is_some(), "the RDT classes"),
            (!self.net_devices.is_empty(), "the network devices"),
        ]
        .into_iter()
        .find_map(|(present, what)| present.then_some(what))
    }
}

impl Edits {
    pub(crate) fn add(&mut self, edits: RawEdits) {
        self.env.extend(edits.env);
        self.device_nodes.extend(edits.device_nodes);
        self.mounts.extend(edits.mounts);
        self.additional_gids.extend(edits.additional_gids);
        self.hooks.extend(edits.hooks);
    }
}
