//! What a person asks of a pod or container when the status is not enough.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::Result;
use crate::error::chain;
use crate::pod::Pod;
use crate::wiring::Wiring;
use crisp_cgroup::{CgroupPath, Extent};
use serde_json::{Value, json};

impl Engine {
    /// Everything known of a pod, with its containers, as JSON.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn pod_info(&self, id: &str) -> Result<Value> {
        let pod = self.store.pod(id)?;
        let containers = self.store.containers_of(pod.id());
        let mut info = self.describe_pod(&pod);
        info["containers"] = containers
            .iter()
            .map(|c| self.describe_container(c))
            .collect();
        Ok(info)
    }

    /// Everything known of a container, with its OCI runtime spec as `runtimeSpec`, as JSON.
    ///
    /// # Errors
    /// If there is no such container.
    pub fn container_info(&self, id: &str) -> Result<Value> {
        let container = self.store.container(id)?;
        let mut info = self.describe_container(&container);
        // A container whose pod was stopped has no bundle any more.
        if let Ok(spec) = self.read_spec(&container.record()) {
            info["runtimeSpec"] = json!(spec);
        }
        Ok(info)
    }

    fn describe_pod(&self, pod: &Pod) -> Value {
        let (record, view) = (pod.record(), pod.view(&self.config().netns_dir));
        let network = record.network.as_ref();
        let built_in = network.and_then(Wiring::built_in);
        let bridged = built_in.filter(|attachment| attachment.uplink.is_none());
        json!({
            "id": record.id,
            "pid": record.pause_pid,
            "shimPid": record.shim_pid,
            "processStatus": format!("{:?}", record.state).to_lowercase(),
            "runtimeHandler": record.handler,
            "netNamespace": view.netns,
            "network": built_in,
            "bridge": bridged.map(|_| self.config().network.bridge.clone()),
            "cni": network.and_then(Wiring::plugins).map(|cni| describe_cni(cni)),
            "runDir": self.pod_run_dir(pod.id()),
            "cgroup": self.describe_cgroup(&record.cgroup),
            "config": *record.config,
        })
    }

    fn describe_container(&self, container: &Container) -> Value {
        let record = container.record();
        let snapshot = self.images.snapshot(&record.id);
        json!({
            "id": record.id,
            "sandboxID": record.pod,
            "name": record.config.metadata.name,
            "pid": record.state.pid(),
            "state": record.state,
            "image": record.image_id,
            "user": record.user,
            "logPath": record.log_path,
            "bundle": self.bundle_dir(&record.pod, &record.id),
            "snapshot": snapshot.map(|s| json!({
                "lowerDirs": s.lower_dirs,
                "upperDir": s.upper_dir,
                "workDir": s.work_dir,
            })),
            "cgroup": self.describe_cgroup(&record.cgroup),
            "config": *record.config,
        })
    }

    /// A cgroup's directories, the limits in force and the figures, as the kernel tells them.
    fn describe_cgroup(&self, path: &str) -> Value {
        let Ok(parsed) = CgroupPath::parse(path) else {
            return json!({ "path": path });
        };
        let cgroup = self.hierarchies.open(&parsed);
        if !cgroup.exists() {
            return json!({ "path": path });
        }
        let told = |error: crisp_cgroup::Error| json!({ "error": chain(&error) });
        json!({
            "path": path,
            "directories": cgroup.dirs(),
            "limits": cgroup.limits().map_or_else(told, |limits| json!(limits)),
            "stats": cgroup.stats(Extent::All).map_or_else(told, |stats| json!(stats)),
        })
    }
}

/// A pod's place in a network of CNI plugins.
fn describe_cni(attachment: &crisp_cni::Attachment) -> Value {
    json!({
        "network": attachment.network.name,
        "source": attachment.network.source,
        "plugins": attachment.network.plugin_types().collect::<Vec<_>>(),
        "interface": attachment.interface,
        "addresses": attachment.addresses,
        "result": attachment.result,
    })
}
