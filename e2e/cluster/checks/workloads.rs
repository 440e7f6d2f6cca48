//! Controllers, and what becomes of the pods that they want.

use super::{service, text, web, workload};
use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use crisp_e2e::manifest::{pause, sh, sh_with};
use serde_json::{Value, json};

/// busybox that runs as another user.
const OTHER_IMAGE: &str = "registry.k8s.io/e2e/user-uid:1";

pub(super) async fn deployment_rolls_to_another_image_and_back(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("rollout").await?;
    let pods = json!({"containers": [pause("main")], "terminationGracePeriodSeconds": 2});
    let deployment = workload("Deployment", "app", pods, json!({"replicas": 3}));
    kubectl.apply(&deployment).await?;
    for (command, user) in [
        ("annotate deployment/app e2e=first".to_owned(), "0\n"),
        (
            format!("set image deployment/app main={OTHER_IMAGE}"),
            "1002\n",
        ),
        ("rollout undo deployment/app".to_owned(), "0\n"),
    ] {
        kubectl.run(&command).await?;
        kubectl.rolled_out("deployment/app").await?;
        let says = kubectl.exec("deployment/app", "id -u").await?;
        ensure!(says == user, "{command}: {says}");
    }
    kubectl.run("scale deployment/app --replicas=1").await?;
    cluster
        .until("one pod is left", async || {
            let pods = kubectl.get("pods").await.ok()?;
            (pods["items"].as_array()?.len() == 1).then_some(())
        })
        .await?;
    kubectl.delete_namespace().await
}

/// A job's pod that fails the first time that it runs anywhere.
fn job_spec(script: &str) -> Value {
    json!({
        "backoffLimit": 4,
        "template": {"spec": {
            "restartPolicy": "OnFailure",
            "volumes": [{"name": "work", "emptyDir": {}}],
            "containers": [sh_with("main", script, json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]}))],
        }},
    })
}

pub(super) async fn job_completes_after_a_failure(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("job").await?;
    let script = "[ -e /work/tried ] && { echo done; exit 0; }; touch /work/tried; exit 3";
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job_spec(script)});
    kubectl.apply(&job).await?;
    kubectl.wait("--for=condition=complete job/job").await?;
    ensure!(kubectl.run("logs job/job").await? == "done\n");
    let pods = kubectl.get("pods").await?;
    let status = &pods["items"][0]["status"]["containerStatuses"][0];
    ensure!(
        status["restartCount"] == 1 && status["lastState"]["terminated"]["exitCode"] == 3,
        "{status}"
    );
    kubectl.delete_namespace().await
}

pub(super) async fn cron_job_runs_by_the_minute(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("cron").await?;
    let cron = json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "cron"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job_spec("echo tick")}},
    });
    kubectl.apply(&cron).await?;
    cluster
        .until("the first run has ended", async || {
            let cron = kubectl.get("cronjob cron").await.ok()?;
            cron["status"]["lastSuccessfulTime"]
                .is_string()
                .then_some(())
        })
        .await?;
    kubectl.delete_namespace().await
}

pub(super) async fn daemon_set_is_on_every_node(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("daemon").await?;
    let variable =
        json!([{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
    let main = sh_with(
        "main",
        "echo $NODE; trap 'exit 0' TERM; while :; do sleep 0.2; done",
        json!({"env": variable}),
    );
    kubectl
        .apply(&workload(
            "DaemonSet",
            "agent",
            json!({"containers": [main]}),
            json!({}),
        ))
        .await?;
    kubectl.rolled_out("daemonset/agent").await?;
    let pods = kubectl.get("pods").await?;
    let mut nodes = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let node = text(pod, "/spec/nodeName")?;
        let said = kubectl
            .run(&format!("logs {}", text(pod, "/metadata/name")?))
            .await?;
        ensure!(said.trim() == node, "{said}");
        nodes.push(node.to_owned());
    }
    nodes.sort();
    let all: Vec<String> = cluster.workers.iter().map(|worker| worker.name()).collect();
    ensure!(nodes == all, "{nodes:?}");
    kubectl.delete_namespace().await
}

pub(super) async fn stateful_set_keeps_names_and_volumes(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("stateful").await?;
    let mounts = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let pods = json!({
        "initContainers": [sh_with("init", "echo $HOSTNAME >>/data/names", mounts.clone())],
        "containers": [web(), sh_with("shell", "trap 'exit 0' TERM; while :; do sleep 0.2; done", mounts)],
        "terminationGracePeriodSeconds": 2,
    });
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {
            "storageClassName": "e2e-static",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    });
    let more = json!({"serviceName": "db", "replicas": 2, "volumeClaimTemplates": [claim]});
    kubectl
        .apply(&json!([
            volume(cluster, 0)?,
            volume(cluster, 1)?,
            service("db", json!({"clusterIP": "None"})),
            workload("StatefulSet", "db", pods, more),
        ]))
        .await?;
    kubectl.rolled_out("statefulset/db").await?;
    // By the names that the headless service gives to each.
    let asks = "wget -q -O - http://db-0.db:8080/hostname; echo; wget -q -O - http://db-1.db.stateful.svc.cluster.local:8080/hostname";
    let client = sh(
        "main",
        &format!("until {{ {asks}; }} >/tmp/said 2>/dev/null; do sleep 1; done; cat /tmp/said"),
    );
    let client = super::pod(
        "client",
        json!({"restartPolicy": "Never", "containers": [client]}),
    );
    kubectl.apply(&client).await?;
    kubectl
        .wait("--for=jsonpath={.status.phase}=Succeeded pod/client")
        .await?;
    let said = kubectl.run("logs client").await?;
    ensure!(said == "db-0\ndb-1", "{said}");
    kubectl.run("delete pod db-0").await?;
    kubectl.rolled_out("statefulset/db").await?;
    let names = kubectl.exec("db-0 -c shell", "cat /data/names").await?;
    ensure!(names == "db-0\ndb-0\n", "{names}");
    kubectl.run("delete statefulset db").await?;
    kubectl.run("delete pvc --all").await?;
    kubectl.run("delete pv e2e-0 e2e-1").await?;
    kubectl.delete_namespace().await
}

/// A directory of the host, which both nodes have.
fn volume(cluster: &Cluster, number: u8) -> Result<Value> {
    let path = cluster.workers[0]
        .node
        .scratch()?
        .join(format!("volume-{number}"));
    Ok(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": format!("e2e-{number}")},
        "spec": {
            "storageClassName": "e2e-static",
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Mi"},
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
        },
    }))
}
