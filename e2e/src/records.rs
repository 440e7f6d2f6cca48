//! What a daemon's records say of its pods and containers, read without its help.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A pod by its record.
#[derive(Debug)]
pub(crate) struct PodRecord {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) cgroup: String,
    pub(crate) wiring: Wiring,
    pub(crate) shim_pid: Option<i32>,
    pub(crate) pause_pid: Option<i32>,
    pub(crate) containers: Vec<ContainerRecord>,
}

/// Who connected a pod to the network, and what it has there.
#[derive(Debug)]
pub(crate) enum Wiring {
    /// The host's network, or nothing yet, or nothing any more.
    None,
    BuiltIn {
        /// Empty on an uplink.
        host_interface: String,
        has_host_ports: bool,
    },
    Plugins {
        addresses: Vec<String>,
    },
}

/// A container by its record.
#[derive(Debug)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) cgroup: String,
    pub(crate) state: ContainerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerState {
    Created,
    Running(i32),
    Exited,
}

impl PodRecord {
    pub(crate) fn is_ready(&self) -> bool {
        self.state == "Ready"
    }

    /// Whether it is made or taken down just now, so that its parts may be there or not.
    pub(crate) fn is_in_between(&self) -> bool {
        let has_effects = self.shim_pid.is_some() || !matches!(self.wiring, Wiring::None);
        !self.is_ready() && (self.state == "Starting" || has_effects)
    }

    fn read(dir: &Path) -> Result<Self> {
        let record = read(&dir.join("pod.json"))?;
        let pid = |field: &str| record[field].as_i64().and_then(|pid| pid.try_into().ok());
        Ok(Self {
            id: text(&record["id"]),
            state: text(&record["state"]),
            cgroup: text(&record["cgroup"]),
            wiring: Wiring::of(&record["network"]),
            shim_pid: pid("shim_pid"),
            pause_pid: pid("pause_pid"),
            containers: entries(&dir.join("containers"))
                .iter()
                .filter(|path| is_finished(path))
                .map(|path| ContainerRecord::read(path))
                .collect::<Result<_>>()?,
        })
    }
}

impl Wiring {
    fn of(network: &Value) -> Self {
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(text).collect()
        };
        if network.is_null() {
            return Self::None;
        }
        if let Some(cni) = network.get("cni") {
            return Self::Plugins {
                addresses: texts(&cni["addresses"]),
            };
        }
        Self::BuiltIn {
            host_interface: text(&network["host_interface"]),
            has_host_ports: network["port_mappings"]
                .as_array()
                .is_some_and(|mappings| !mappings.is_empty()),
        }
    }
}

impl ContainerRecord {
    fn read(path: &Path) -> Result<Self> {
        let record = read(path)?;
        let running = record["state"]["Running"]["pid"].as_i64();
        let state = match running {
            Some(pid) => ContainerState::Running(pid.try_into()?),
            None if record["state"] == "Created" => ContainerState::Created,
            None => ContainerState::Exited,
        };
        Ok(Self {
            id: text(&record["id"]),
            cgroup: text(&record["cgroup"]),
            state,
        })
    }
}

/// Whether a record's file is not still being written.
pub(crate) fn is_finished(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

/// The pods of a daemon with this root directory.
///
/// # Errors
/// A record cannot be read, or is not finished: it is written at the moment, or was left so.
pub(crate) fn pods(root_dir: &Path) -> Result<Vec<PodRecord>> {
    entries(&root_dir.join("pods"))
        .iter()
        .map(|dir| PodRecord::read(dir))
        .collect()
}

/// What an image store has to have by its own records, and snapshots by theirs.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// File names below `blobs/sha256` that images name.
    pub(crate) blobs: BTreeSet<String>,
    /// What the layers of images are known by.
    pub(crate) layer_keys: BTreeSet<String>,
    /// Images of which a layer has no digest in their configuration.
    pub(crate) fixups: usize,
    /// Numbers of layers that snapshots are over.
    pub(crate) layer_numbers: BTreeSet<u64>,
}

impl Stored {
    /// # Errors
    /// Something that is named is not there.
    pub(crate) fn read(root_dir: &Path) -> Result<Self> {
        let mut stored = Self::default();
        let images = root_dir.join("images");
        if images.join("index.json").exists() {
            let index = read(&images.join("index.json"))?;
            for descriptor in index["manifests"].as_array().into_iter().flatten() {
                stored.add_image(&images, descriptor)?;
            }
        }
        for dir in entries(&root_dir.join("containers")) {
            if dir.ends_with("staging") {
                continue;
            }
            let record = read(&dir.join("snapshot.json"))?;
            stored.layer_numbers.extend(numbers(&record["layers"]));
            for lent in record["lent"].as_array().into_iter().flatten() {
                stored.layer_numbers.extend(numbers(&lent["layers"]));
            }
        }
        Ok(stored)
    }

    fn add_image(&mut self, images: &Path, descriptor: &Value) -> Result<()> {
        let name = |value: &Value| text(value).trim_start_matches("sha256:").to_owned();
        let digest = name(&descriptor["digest"]);
        let manifest = read(&images.join("blobs/sha256").join(&digest))?;
        let config_digest = name(&manifest["config"]["digest"]);
        let config = read(&images.join("blobs/sha256").join(&config_digest))?;
        self.blobs.extend([digest, config_digest]);
        let layers = manifest["layers"].as_array().into_iter().flatten();
        self.blobs
            .extend(layers.map(|layer| name(&layer["digest"])));
        let diff_ids = config["rootfs"]["diff_ids"].as_array();
        self.layer_keys
            .extend(diff_ids.into_iter().flatten().map(text));
        self.fixups += usize::from(!descriptor["annotations"]["dev.crisp.fixup"].is_null());
        Ok(())
    }
}

fn numbers(list: &Value) -> impl Iterator<Item = u64> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
}

/// Changes what a record says, as an older daemon or chance might have.
///
/// # Errors
/// There is no such record, or it is none.
pub fn edit_record(path: &Path, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let mut record = read(path)?;
    edit(&mut record);
    Ok(fs::write(path, record.to_string())?)
}

pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// What is in a directory; nothing when it is not there.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
