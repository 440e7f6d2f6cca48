//! Requests and limits, by the kernel's own account.

use crate::kubelet::{Kubelet, POD_PIDS_LIMIT};
use crate::pod::{StaticPod, container};
use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::{pause, pause_with, sh_with};
use crisp_e2e::{Cgroup, cgroups_are_v2};
use serde_json::json;
use std::path::Path;

/// The cgroup of a container, by its first process.
async fn cgroup(
    kubelet: &Kubelet,
    pod: &StaticPod<'_>,
    name: &str,
    controller: &str,
) -> Result<Cgroup> {
    let object = pod.object().await?.context("the pod is gone")?;
    let id = container(&object, name)?["containerID"]
        .as_str()
        .context("no id")?;
    let (runtime, id) = id.split_once("://").context("no id")?;
    ensure!(runtime == "crisp", "{runtime}");
    kubelet.node.process_of(id).await?.cgroup(controller)
}

pub(super) async fn guaranteed_pod_has_its_limits_in_its_cgroups(kubelet: &Kubelet) -> Result<()> {
    let limits = json!({"resources": {"limits": {"cpu": "250m", "memory": "64Mi"}}});
    let main = pause_with("main", limits);
    let pod = kubelet.add("guaranteed", json!({"containers": [main]}))?;
    let object = pod.ready().await?;
    ensure!(object["status"]["qosClass"] == "Guaranteed");
    let memory = cgroup(kubelet, &pod, "main", "memory").await?;
    let cpu = cgroup(kubelet, &pod, "main", "cpu").await?;
    let (memory_file, cpu_file, quota) = if cgroups_are_v2() {
        ("memory.max", "cpu.max", "25000 100000")
    } else {
        ("memory.limit_in_bytes", "cpu.cfs_quota_us", "25000")
    };
    ensure!(memory.read(memory_file)? == (64 << 20).to_string());
    ensure!(cpu.read(cpu_file)? == quota);
    // Below the cgroup that the kubelet made, and that has the limits as well.
    let of_kubelet = |path: &Path| {
        let name = path.file_name();
        // As it is called, or as systemd's slice of it is.
        let prefixes = ["pod", "kubepods-pod"];
        name.is_some_and(|name| {
            let name = name.to_string_lossy();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        })
    };
    let dir = memory
        .0
        .ancestors()
        .find(|path| of_kubelet(path))
        .context("not below the kubelet's cgroup")?;
    ensure!(Cgroup(dir.to_owned()).read(memory_file)? == (64 << 20).to_string());
    pod.remove().await
}

pub(super) async fn burstable_and_best_effort_pods_have_their_weights(
    kubelet: &Kubelet,
) -> Result<()> {
    let main = pause_with(
        "main",
        json!({"resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "64Mi"}}}),
    );
    let burstable = kubelet.add("burstable", json!({"containers": [main]}))?;
    let best_effort = kubelet.add("besteffort", json!({"containers": [pause("main")]}))?;
    ensure!(burstable.ready().await?["status"]["qosClass"] == "Burstable");
    ensure!(best_effort.ready().await?["status"]["qosClass"] == "BestEffort");
    let mut weights: Vec<u64> = Vec::new();
    for (pod, qos) in [(&burstable, "burstable"), (&best_effort, "besteffort")] {
        let cpu = cgroup(kubelet, pod, "main", "cpu").await?;
        ensure!(cpu.0.display().to_string().contains(qos), "{cpu:?}");
        let file = if cgroups_are_v2() {
            "cpu.weight"
        } else {
            "cpu.shares"
        };
        weights.push(cpu.read(file)?.parse()?);
    }
    // The shares come through as they are; the kernel's weights are on another scale.
    let expected = if cgroups_are_v2() {
        weights[0] > 10 * weights[1]
    } else {
        weights == [512, 2]
    };
    ensure!(expected, "{weights:?}");
    let oom_score = best_effort
        .exec("main", "cat /proc/1/oom_score_adj")
        .await?;
    ensure!(oom_score == "1000\n", "{oom_score}");
    for pod in [burstable, best_effort] {
        pod.remove().await?;
    }
    Ok(())
}

/// A kubelet that is told nothing of swap gives its pods none.
pub(super) async fn container_may_not_swap(kubelet: &Kubelet) -> Result<()> {
    let limits = json!({"resources": {"limits": {"memory": "32Mi"}}});
    let main = pause_with("main", limits);
    let pod = kubelet.add("swapless", json!({"containers": [main]}))?;
    pod.ready().await?;
    let memory = cgroup(kubelet, &pod, "main", "memory").await?;
    let (file, limit) = if cgroups_are_v2() {
        ("memory.swap.max", 0)
    } else {
        // Of memory and swap together.
        ("memory.memsw.limit_in_bytes", 32 << 20)
    };
    ensure!(memory.read(file)? == limit.to_string());
    pod.remove().await
}

pub(super) async fn container_over_its_memory_limit_is_oom_killed(kubelet: &Kubelet) -> Result<()> {
    let main = sh_with(
        "main",
        "tail /dev/zero",
        json!({"resources": {"limits": {"memory": "16Mi"}}}),
    );
    let pod = kubelet.add(
        "oom",
        json!({"restartPolicy": "Never", "containers": [main]}),
    )?;
    let object = pod.ended().await?;
    let terminated = &container(&object, "main")?["state"]["terminated"];
    ensure!(
        terminated["reason"] == "OOMKilled" && terminated["exitCode"] == 137,
        "{terminated}"
    );
    pod.remove().await
}

pub(super) async fn fork_bomb_is_held_by_the_pods_pid_limit(kubelet: &Kubelet) -> Result<()> {
    // The shell that forks gives up at the limit; what it has started stays.
    let bomb = "(while :; do sleep 1000 & done) 2>/dev/null & exec tail -f /dev/null";
    let pod = kubelet.add(
        "bomb",
        json!({"terminationGracePeriodSeconds": 0, "containers": [sh_with("bomb", bomb, json!({}))]}),
    )?;
    let neighbour = kubelet.add("neighbour", json!({"containers": [pause("main")]}))?;
    pod.ready().await?;
    let container = cgroup(kubelet, &pod, "bomb", "pids").await?;
    let limit = POD_PIDS_LIMIT.to_string();
    let of_pod = container
        .0
        .ancestors()
        .map(|dir| Cgroup(dir.to_owned()))
        .find(|cgroup| cgroup.read("pids.max").is_ok_and(|max| max == limit))
        .context("no cgroup has the pod's limit")?;
    kubelet
        .until("the bomb has burst", async || {
            let count: u32 = of_pod.read("pids.current").ok()?.parse().ok()?;
            (POD_PIDS_LIMIT - 2..=POD_PIDS_LIMIT)
                .contains(&count)
                .then_some(())
        })
        .await?;
    neighbour.ready().await?;
    ensure!(neighbour.exec("main", "echo unharmed").await? == "unharmed\n");
    for pod in [pod, neighbour] {
        pod.remove().await?;
    }
    Ok(())
}
