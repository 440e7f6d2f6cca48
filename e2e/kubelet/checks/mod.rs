//! What is checked: each a pod or two of its own.

mod images;
mod lifecycle;
mod network;
mod observation;
mod probes;
mod resources;
mod restarts;
mod security;
mod streams;
mod volumes;

use crate::kubelet::Kubelet;
use anyhow::Result;
use crisp_e2e::catalog::BUSYBOX;
use serde_json::{Value, json};
use std::pin::Pin;
use std::time::Instant;

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A check by its name.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    run: for<'a> fn(&'a Kubelet) -> Running<'a>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
}

impl Check {
    /// Runs it, and prints how it went.
    pub(crate) async fn run(self, kubelet: &Kubelet) -> Outcome {
        let start = Instant::now();
        let result = (self.run)(kubelet).await;
        let seconds = start.elapsed().as_secs_f32();
        report(&format!("{} ({seconds:.1} s)", self.name), result)
    }
}

/// Prints how something went.
pub(crate) fn report(name: &str, result: Result<()>) -> Outcome {
    match result {
        Ok(()) => {
            println!("ok      {name}");
            Outcome::Passed
        }
        Err(error) => {
            println!("FAILED  {name}: {error:#}");
            Outcome::Failed
        }
    }
}

macro_rules! checks {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Check {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |kubelet| Box::pin($module::$name(kubelet)),
        }),*]
    };
}

/// Those that go on beside each other, and those that others would notice.
pub(crate) fn all() -> (Vec<Check>, Vec<Check>) {
    let together = checks![
        images::unused_images_are_collected,
        lifecycle::init_containers_run_in_order_before_the_others,
        lifecycle::sidecar_starts_before_and_ends_after_its_pod,
        lifecycle::hooks_run_after_the_start_and_before_the_stop,
        lifecycle::pod_that_obeys_ends_within_its_grace_period,
        lifecycle::pod_that_does_not_obey_is_killed_after_its_grace_period,
        lifecycle::termination_message_comes_from_the_file_or_the_log,
        restarts::failed_container_comes_again_with_its_last_state,
        restarts::container_that_is_never_to_restart_keeps_its_exit_code,
        restarts::container_that_succeeded_stays_as_it_is_on_failure,
        probes::readiness_decides_whether_a_pod_is_ready,
        probes::failed_liveness_restarts_the_container,
        probes::startup_holds_the_liveness_probe_back,
        probes::http_and_tcp_reach_the_pod,
        volumes::empty_dir_is_shared_by_the_containers_of_a_pod,
        volumes::empty_dir_in_memory_is_a_tmpfs_of_its_size,
        volumes::host_path_shows_the_files_of_the_host,
        volumes::downward_api_shows_the_pod_to_itself_by_sub_path,
        security::user_and_groups_are_those_asked_for,
        security::read_only_root_cannot_be_written,
        security::runtime_default_filters_system_calls,
        security::user_namespace_maps_root_to_nobody_of_the_host,
        security::host_pid_and_shared_pid_namespaces_show_processes,
        security::capabilities_are_added_and_dropped,
        resources::guaranteed_pod_has_its_limits_in_its_cgroups,
        resources::burstable_and_best_effort_pods_have_their_weights,
        resources::container_over_its_memory_limit_is_oom_killed,
        resources::fork_bomb_is_held_by_the_pods_pid_limit,
        network::host_port_reaches_the_pod,
        network::host_network_shows_the_hosts_interfaces,
        network::pods_reach_each_other_by_address,
        streams::exec_keeps_bytes_and_codes,
        streams::attach_reads_and_writes,
        streams::port_forward_reaches_a_pod_and_a_host_network_pod,
        streams::logs_are_served_by_lines_and_since_a_restart,
        images::absent_image_that_may_not_be_pulled_is_an_error,
        images::image_that_does_not_exist_backs_off,
        images::always_pulls_each_time_and_if_not_present_once,
        observation::summary_tells_of_cpu_memory_and_network,
        observation::logs_are_rotated,
    ];
    let alone = checks![
        observation::kubelet_restart_leaves_containers_alone,
        observation::runtime_restart_leaves_containers_alone,
        observation::figures_come_from_the_runtime_too,
    ];
    (together, alone)
}

/// What a kubelet does for pods of an API server alone, and why not here.
pub(crate) const SKIPPED: [(&str, &str); 4] = [
    (
        "volumes::projected_and_service_account",
        "they take a client of the API server",
    ),
    (
        "resources::resize_in_place",
        "a static pod whose manifest changes is another pod",
    ),
    (
        "resources::eviction",
        "static pods are critical: they are never evicted",
    ),
    (
        "observation::node_conditions",
        "they are told to the API server alone",
    ),
];

/// A container that runs a script in busybox.
fn sh(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// The same with more fields.
fn sh_with(name: &str, script: &str, more: Value) -> Value {
    merged(sh(name, script), more)
}

/// Lives until it is told to end.
fn pause(name: &str) -> Value {
    sh(name, "trap 'exit 0' TERM; while :; do sleep 0.2; done")
}

/// The same with more fields.
fn pause_with(name: &str, more: Value) -> Value {
    merged(pause(name), more)
}

/// The fields of one object over those of another.
fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}
