//! The daemon's own metrics, as Prometheus sees them.

use crate::events::{next, subscribe};
use anyhow::{Result, ensure};
use crisp_e2e::{Node, Process, Scrape, http_get, until};
use std::collections::BTreeMap;
use std::net::TcpListener;

const PHASES: [&str; 14] = [
    "pod_record",
    "pod_files",
    "shim",
    "pod_cgroups",
    "namespaces",
    "network",
    "snapshot",
    "host_files",
    "volumes",
    "spec",
    "container_cgroup",
    "container_limits",
    "bundle",
    "runtime_start",
];

/// Every histogram has growing bounds, counts that only grow with them, and the last one as its count.
fn check_histograms(scrape: &Scrape) -> Result<()> {
    let of_type = |(name, kind): (&String, &String)| (kind == "histogram").then(|| name.clone());
    let histograms: Vec<_> = scrape.types.iter().filter_map(of_type).collect();
    // Of RPCs, of the phases of starts, of pulls.
    ensure!(histograms.len() >= 3, "{:?}", scrape.types);
    for name in histograms {
        let mut buckets = BTreeMap::<_, Vec<(f64, f64)>>::new();
        for bucket in scrape.all(&format!("{name}_bucket"), &[]) {
            let mut labels = bucket.labels.clone();
            let bound = labels.remove("le").unwrap_or_default().parse()?;
            let of_labels = buckets.entry(labels).or_default();
            of_labels.push((bound, bucket.value));
        }
        ensure!(!buckets.is_empty(), "{name} has no samples");
        for (labels, buckets) in buckets {
            ensure!(
                buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{name} {labels:?}: {buckets:?}"
            );
            let pairs = labels.iter().map(|(name, v)| (name.as_str(), v.as_str()));
            let pairs: Vec<_> = pairs.collect();
            let count = scrape.value(&format!("{name}_count"), &pairs)?;
            let last = buckets.last().copied().unwrap_or_default();
            ensure!(last == (f64::INFINITY, count), "{name} {labels:?}");
        }
    }
    Ok(())
}

fn rpcs(scrape: &Scrape, method: &str, code: &str) -> Result<f64> {
    let labels = [("method", method), ("code", code)];
    scrape.value("crisp_rpc_duration_seconds_count", &labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_metrics_count_rpcs_phases_pulls_and_what_there_is() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let missing = node.pull("registry.k8s.io/no/such:1").await;
    ensure!(missing.is_err());
    let mut events = subscribe(node.runtime()).await?;

    let scrape = node.scrape().await?;
    check_histograms(&scrape)?;
    ensure!(rpcs(&scrape, "RunPodSandbox", "OK")? == 1.0);
    ensure!(rpcs(&scrape, "StartContainer", "OK")? == 1.0);
    ensure!(rpcs(&scrape, "PullImage", "NOT_FOUND")? == 1.0);
    ensure!(rpcs(&scrape, "GetContainerEvents", "OK")? == 1.0);
    for phase in PHASES {
        let labels = [("phase", phase)];
        let count = scrape.value("crisp_start_phase_duration_seconds_count", &labels)?;
        ensure!(count == 1.0, "{phase}: {count}");
    }
    let pulls = |result| {
        let labels = [("result", result)];
        scrape.value("crisp_image_pull_duration_seconds_count", &labels)
    };
    ensure!(pulls("success")? == 1.0 && pulls("not_found")? == 1.0);
    ensure!(scrape.value("crisp_image_pull_bytes_total", &[])? > 100_000.0);
    for (name, labels, expected) in [
        ("crisp_pods", &[("state", "ready")][..], 1.0),
        ("crisp_pods", &[("state", "not_ready")], 0.0),
        ("crisp_containers", &[("state", "running")], 1.0),
        ("crisp_images", &[], 1.0),
        ("crisp_shims", &[], 1.0),
        ("crisp_event_listeners", &[], 1.0),
        ("crisp_teardown_failures_total", &[], 0.0),
    ] {
        let value = scrape.value(name, labels)?;
        ensure!(value == expected, "{name} {labels:?}: {value}");
    }

    container.stop(0).await?;
    next(&mut events).await?;
    drop(events);
    let scrape = node.scrape().await?;
    let exits = scrape.value("crisp_container_exits_total", &[("reason", "Error")])?;
    let stopped = scrape.value("crisp_events_total", &[("kind", "stopped")])?;
    ensure!((exits, stopped) == (1.0, 1.0), "{exits} {stopped}");
    ensure!(scrape.value("crisp_containers", &[("state", "exited")])? == 1.0);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_metrics_of_a_new_daemon_tell_recovery_and_the_process() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("pod", |_| ()).await?;
    pod.start("main", |_| ()).await?;
    node.kill()?;
    node.restart().await?;
    let scrape = node.scrape().await?;
    let taken_over = [("outcome", "taken_over")];
    ensure!(scrape.value("crisp_recovered_pods_total", &taken_over)? == 1.0);
    ensure!(scrape.value("crisp_recovery_seconds", &[])? > 0.0);
    ensure!(scrape.value("crisp_pods", &[("state", "ready")])? == 1.0);
    ensure!(scrape.value("crisp_shims", &[])? == 1.0);

    let daemon = Process(node.daemon_pid().unwrap_or_default().try_into()?);
    let threads = scrape.value("process_threads", &[])?;
    ensure!(threads >= 2.0, "{threads}");
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let resident = daemon.resident_bytes()? as f64;
    let told = scrape.value("process_resident_memory_bytes", &[])?;
    // It changes from moment to moment.
    ensure!((0.5..2.0).contains(&(told / resident)), "{told} {resident}");
    ensure!(scrape.value("process_open_fds", &[])? > 5.0);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_metrics_have_no_label_that_a_client_chooses() -> Result<()> {
    let node = Node::start().await?;
    let before = node.scrape().await?.samples.len();
    let endpoint = format!("unix://{}", node.socket().display());
    let channel = tonic::transport::Endpoint::from_shared(endpoint)?
        .connect()
        .await?;
    for number in 0..20 {
        let path = format!("/runtime.v1.RuntimeService/NoSuch{number}");
        let answer = crate::services::answer(&channel, &path, "").await?;
        ensure!(answer == tonic::Code::Unimplemented, "{path}: {answer:?}");
        let image = format!("registry.k8s.io/no/such{number}:1");
        ensure!(node.pull(&image).await.is_err());
    }
    let unknown = async || {
        let scrape = node.scrape().await.ok()?;
        let unknown = rpcs(&scrape, "unknown", "UNIMPLEMENTED").ok()?;
        (unknown == 20.0).then_some(scrape)
    };
    let scrape = until("20 unknown RPCs", unknown).await?;
    // One more histogram for each of: unknown RPCs, PullImage not found, pulls not found.
    let more = scrape.samples.len() - before;
    ensure!(more < 4 * 50, "{more} more samples");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_metrics_whose_address_is_taken_come_when_it_is_free() -> Result<()> {
    let other = TcpListener::bind("127.0.0.1:0")?;
    let address = other.local_addr()?;
    let node = Node::start_with(|config| {
        config["metrics"]["address"] = address.to_string().into();
    })
    .await?;
    // Pods need no metrics.
    node.run_pod("served", |_| ()).await?;
    drop(other);
    let told = async || http_get(address, "/metrics").await.ok();
    let answer = until("the metrics are served", told).await?;
    ensure!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    node.finish().await
}
