//! What is checked: each in a namespace of its own.

mod commands;
mod configuration;
mod figures;
mod nodes;
mod resources;
mod services;
mod streams;
mod workloads;

use crate::cluster::Cluster;
use anyhow::{Context, Result};
use crisp_e2e::AGNHOST;
use crisp_e2e::checks;
use crisp_e2e::checks::Suite;
use crisp_e2e::manifest::merged;
use serde_json::{Value, json};

pub(crate) fn suite() -> Suite<Cluster> {
    let together = checks![
        workloads::deployment_rolls_to_another_image_and_back,
        workloads::job_completes_after_a_failure,
        workloads::cron_job_runs_by_the_minute,
        workloads::daemon_set_is_on_every_node,
        workloads::stateful_set_keeps_names_and_volumes,
        services::service_reaches_the_pods_of_both_nodes_by_name,
        services::pod_reaches_itself_by_its_service,
        services::node_port_answers_at_every_node,
        services::pods_of_both_nodes_reach_each_other_and_see_who_it_is,
        services::pod_reaches_the_api_by_its_account,
        streams::logs_are_followed_to_the_end,
        streams::exec_has_a_terminal_and_a_code,
        streams::files_are_copied_both_ways,
        streams::attach_reads_and_writes,
        streams::port_is_forwarded_to_pod_and_service,
        commands::ephemeral_container_joins_a_pod,
        commands::deletion_lets_a_pod_say_goodbye,
        commands::events_tell_of_a_pods_start,
        configuration::files_and_variables_come_from_the_api_and_change,
        configuration::projected_files_are_the_pods_and_its_accounts,
        figures::top_tells_of_nodes_and_pods,
        resources::resize_in_place_changes_the_cgroup,
        resources::fork_bomb_is_held_by_the_pods_pid_limit,
        resources::pod_over_its_ephemeral_storage_is_evicted,
        resources::runtime_class_runs_a_pod_by_runc,
        resources::grpc_probe_decides_whether_a_pod_is_ready,
    ];
    let alone = checks![
        nodes::nodes_tell_their_conditions_and_runtime,
        nodes::runtime_restart_leaves_pods_alone,
        nodes::kubelet_that_dies_is_noticed_and_comes_back,
        nodes::drain_evicts_and_another_node_takes_over,
        nodes::node_whose_disk_is_full_evicts_and_recovers,
    ];
    Suite {
        together,
        alone,
        skipped: &SKIPPED,
    }
}

/// What takes more than this machine has.
const SKIPPED: [(&str, &str); 1] = [(
    "resources::swap_in_proportion_to_the_request",
    "kubelets give it to pods where cgroups are of version 2 and the host has some",
)];

/// A pod.
fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

/// One of the kinds of apps/v1, with pods that are labelled by its name.
fn workload(kind: &str, name: &str, pods: Value, more: Value) -> Value {
    let labels = json!({"app": name});
    let spec = json!({
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pods},
    });
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": merged(spec, more)})
}

/// A service of the pods of that name, from port 80 to [`web`].
fn service(name: &str, more: Value) -> Value {
    let spec = json!({"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": merged(spec, more)})
}

/// A container that agnhost runs in.
fn agnhost(arguments: &[&str], more: Value) -> Value {
    merged(
        json!({"name": "main", "image": AGNHOST, "args": arguments}),
        more,
    )
}

/// A container that tells who it is and who asks, on port 8080.
fn web() -> Value {
    let ready = json!({"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1});
    agnhost(&["netexec"], json!({"readinessProbe": ready}))
}

/// A string inside an object.
fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.with_context(|| format!("no {pointer} in {value}"))
}
