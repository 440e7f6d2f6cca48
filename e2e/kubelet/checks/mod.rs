//! What is checked: each a pod or two of its own.

mod crash;
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
use crisp_e2e::checks;
use crisp_e2e::checks::Suite;

pub(crate) fn suite() -> Suite<Kubelet> {
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
        resources::container_may_not_swap,
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
        crash::kubelet_and_runtime_that_die_together_lose_nothing,
        observation::figures_come_from_the_runtime_too,
    ];
    Suite {
        together,
        alone,
        skipped: &SKIPPED,
    }
}

/// What a kubelet does for pods of an API server alone, and why not here: `e2e/cluster.sh` looks at all of it
/// but swap, which takes cgroup v2.
const SKIPPED: [(&str, &str); 5] = [
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
        "resources::limited_swap",
        "static pods are critical: they are given no swap",
    ),
    (
        "observation::node_conditions",
        "they are told to the API server alone",
    ),
];
