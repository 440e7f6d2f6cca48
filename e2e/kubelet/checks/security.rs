//! Security contexts, as the kernel sees them.

use crate::kubelet::Kubelet;
use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::{pause, pause_with};
use serde_json::{Value, json};

fn confined(name: &str, security: &Value) -> Value {
    pause_with(name, json!({"securityContext": security}))
}

pub(super) async fn user_and_groups_are_those_asked_for(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add(
        "users",
        json!({
            "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000]},
            "volumes": [{"name": "owned", "emptyDir": {}}],
            "containers": [
                pause_with("main", json!({"volumeMounts": [{"name": "owned", "mountPath": "/owned"}]})),
                confined("other", &json!({"runAsUser": 1001, "runAsNonRoot": true, "allowPrivilegeEscalation": false})),
            ],
        }),
    )?;
    pod.ready().await?;
    let groups = pod
        .exec("main", "id -u; id -g; id -G; stat -c %g /owned")
        .await?;
    ensure!(groups.starts_with("1000\n3000\n3000 "), "{groups}");
    ensure!(
        groups.contains("2000") && groups.contains("4000") && groups.ends_with("\n2000\n"),
        "{groups}"
    );
    let other = pod
        .exec("other", "id -u; grep NoNewPrivs /proc/self/status")
        .await?;
    ensure!(other == "1001\nNoNewPrivs:\t1\n", "{other:?}");
    pod.remove().await
}

pub(super) async fn read_only_root_cannot_be_written(kubelet: &Kubelet) -> Result<()> {
    let main = confined("main", &json!({"readOnlyRootFilesystem": true}));
    let pod = kubelet.add("readonly", json!({"containers": [main]}))?;
    pod.ready().await?;
    let output = pod.try_exec("main", "touch /file").await?;
    ensure!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    pod.remove().await
}

pub(super) async fn runtime_default_filters_system_calls(kubelet: &Kubelet) -> Result<()> {
    let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
    let pod = kubelet.add(
        "seccomp",
        json!({"containers": [
            confined("filtered", &profile("RuntimeDefault")),
            confined("free", &profile("Unconfined")),
        ]}),
    )?;
    pod.ready().await?;
    let mode = "grep ^Seccomp: /proc/self/status";
    ensure!(pod.exec("filtered", mode).await? == "Seccomp:\t2\n");
    ensure!(pod.exec("free", mode).await? == "Seccomp:\t0\n");
    let unshare = "unshare -U true";
    ensure!(pod.try_exec("free", unshare).await?.code == Some(0));
    ensure!(pod.try_exec("filtered", unshare).await?.code != Some(0));
    pod.remove().await
}

pub(super) async fn user_namespace_maps_root_to_nobody_of_the_host(
    kubelet: &Kubelet,
) -> Result<()> {
    let pod = kubelet.add(
        "userns",
        json!({
            "hostUsers": false,
            "volumes": [{"name": "work", "emptyDir": {}}],
            "containers": [pause_with("main", json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]}))],
        }),
    )?;
    pod.ready().await?;
    let seen = pod
        .exec(
            "main",
            "id -u; awk '{print $2}' /proc/self/uid_map; touch /work/file; stat -c %u /work/file",
        )
        .await?;
    let lines: Vec<&str> = seen.lines().collect();
    let [user, first, owner] = lines.as_slice() else {
        anyhow::bail!("{seen:?}");
    };
    ensure!(*user == "0" && *owner == "0", "{seen:?}");
    ensure!(first.parse::<u32>().context("a map")? >= 65536, "{seen:?}");
    pod.remove().await
}

pub(super) async fn host_pid_and_shared_pid_namespaces_show_processes(
    kubelet: &Kubelet,
) -> Result<()> {
    let host = kubelet.add(
        "hostpid",
        json!({"hostPID": true, "containers": [pause("main")]}),
    )?;
    let shared = kubelet.add(
        "sharedpid",
        json!({"shareProcessNamespace": true, "containers": [pause("one"), pause("two")]}),
    )?;
    let private = kubelet.add("ownpid", json!({"containers": [pause("main")]}))?;
    host.ready().await?;
    let kubelets = host
        .exec("main", "cat /proc/[0-9]*/comm | grep -cx kubelet")
        .await?;
    ensure!(kubelets.trim().parse::<u32>()? >= 1, "{kubelets}");
    shared.ready().await?;
    let shells = shared
        .exec("one", "grep -l 'exit 0' /proc/[0-9]*/cmdline | wc -l")
        .await?;
    ensure!(shells.trim().parse::<u32>()? >= 2, "{shells}");
    private.ready().await?;
    ensure!(private.exec("main", "cat /proc/1/comm").await? == "sh\n");
    for pod in [host, shared, private] {
        pod.remove().await?;
    }
    Ok(())
}

pub(super) async fn capabilities_are_added_and_dropped(kubelet: &Kubelet) -> Result<()> {
    let main = confined(
        "main",
        &json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}),
    );
    let pod = kubelet.add("capabilities", json!({"containers": [main]}))?;
    pod.ready().await?;
    let effective = pod.exec("main", "grep CapEff /proc/self/status").await?;
    ensure!(
        effective.trim().ends_with("0000000000000400"),
        "{effective}"
    );
    pod.remove().await
}
