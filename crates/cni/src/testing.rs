//! Plugins for tests: shell scripts that write down how they were called.

use crate::{Attachment, Client, Network, Request};
use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A network of these plugins, of the newest version.
pub(crate) fn network(plugins: Value) -> Network {
    network_of(plugins, "1.1.0")
}

pub(crate) fn network_of(plugins: Value, version: &str) -> Network {
    let dir = tempfile::tempdir().unwrap();
    let list = json!({ "cniVersion": version, "name": "net", "plugins": plugins });
    fs::write(dir.path().join("1.conflist"), list.to_string()).unwrap();
    Network::load(dir.path()).unwrap().unwrap()
}

pub(crate) fn request() -> Request {
    let arg = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Request {
        container_id: "pod1".to_owned(),
        netns: "/proc/self/ns/net".into(),
        interface: "eth0".to_owned(),
        args: vec![arg("IgnoreUnknown", "1"), arg("K8S_POD_NAME", "web")],
        capabilities: Map::new(),
    }
}

/// A directory of plugins.
pub(crate) struct Plugins {
    dir: TempDir,
}

impl Plugins {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(vec!["/no/such/dir".into(), self.dir().to_owned()])
    }

    /// A plugin that runs a script in the directory, after it has added a line to `calls` and put its
    /// configuration into `<name>.<verb>`.
    pub(crate) fn add(&self, name: &str, script: &str) {
        let dir = self.dir().display();
        let text = format!(
            "#!/bin/sh\ncd {dir}\necho \"$CNI_COMMAND {name}\" >>calls\ncat >{name}.$CNI_COMMAND\n{script}\n"
        );
        // Written aside: a program that is open for writing anywhere cannot be executed.
        let (new, path) = (self.path("new"), self.path(name));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.read("calls").lines().map(str::to_owned).collect()
    }

    /// What a plugin was told on its standard input.
    pub(crate) fn told(&self, name: &str, verb: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{name}.{verb}"))).unwrap()
    }
}

pub(crate) fn attachment(network: Network) -> Attachment {
    Attachment::new(Arc::new(network), request()).unwrap()
}
