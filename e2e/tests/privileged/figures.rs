//! Figures of pods and containers, compared with a known workload and with the kernel's own counters.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ListPodSandboxMetricsRequest, Metric, UInt64Value};
use crisp_e2e::{Container, Node, cgroups_are_v2, eventually, resources, sh, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const SECOND_NS: u64 = 1_000_000_000;

/// A figure that the CRI may leave out.
fn given(figure: Option<UInt64Value>) -> Result<u64> {
    Ok(figure.context("a figure is missing")?.value)
}

/// The metrics of the only pod, and of its only container.
struct Metrics {
    pod: Vec<Metric>,
    container: Vec<Metric>,
}

impl Metrics {
    async fn read(node: &Node) -> Result<Self> {
        let request = ListPodSandboxMetricsRequest {};
        let answer = node.runtime().list_pod_sandbox_metrics(request).await?;
        let mut pods = answer.into_inner().pod_metrics;
        let mut pod = pods.pop().context("no metrics")?;
        let container = pod.container_metrics.pop();
        Ok(Self {
            pod: pod.metrics,
            container: container.map(|of| of.metrics).unwrap_or_default(),
        })
    }
}

/// The sum of a metric's samples that have this among the values of their labels.
fn total(metrics: &[Metric], name: &str, label: &str) -> u64 {
    let samples = metrics.iter().filter(|metric| metric.name == name);
    let labelled =
        samples.filter(|m| label.is_empty() || m.label_values.iter().any(|value| value == label));
    labelled
        .filter_map(|m| m.value.as_ref())
        .map(|v| v.value)
        .sum()
}

/// Works until its process has used 200 hundredths of a second, fields 14 and 15 of proc_pid_stat(5), and says how
/// many they are: on a machine that is held up they may be more.
const BURN: &str =
    "until read -r line < /proc/self/stat; set -- $line; [ $((${14} + ${15})) -ge 200 ]; do
  i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done
done; echo burnt $((${14} + ${15})); exec sleep 1000000";

#[tokio::test(flavor = "multi_thread")]
async fn privileged_two_seconds_of_cpu_are_told_as_two() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("cpu", |_| ()).await?;
    let container = pod
        .start("burn", |config| config.command = sh(BURN))
        .await?;
    let said = container.wait_log("burnt").await?;
    let hundredths: u64 = said.text.trim_start_matches("burnt ").parse()?;
    let kernel = container.cgroup("cpuacct").await?;
    let burnt = Duration::from_millis(hundredths * 10);
    let near = burnt - Duration::from_millis(50)..burnt + Duration::from_millis(300);

    let before = kernel.cpu_usage()?;
    let cpu = container.stats().await?.cpu;
    let of_pod = pod.stats().await?.linux.and_then(|it| it.cpu);
    let metrics = Metrics::read(&node).await?;
    let after = kernel.cpu_usage()?;
    let usage = |cpu: Option<crisp_cri_api::v1::CpuUsage>| {
        let cpu = cpu.context("no cpu")?;
        given(cpu.usage_core_nano_seconds).map(Duration::from_nanos)
    };
    let (told, of_pod) = (usage(cpu)?, usage(of_pod)?);
    ensure!(near.contains(&told), "{told:?} of {burnt:?}");
    ensure!(
        (before..=after).contains(&told),
        "{before:?} {told:?} {after:?}"
    );
    // The pod's has its pause process in it too.
    ensure!(
        of_pod >= told && near.contains(&of_pod),
        "{of_pod:?} of {burnt:?}"
    );
    let seconds = |name, label| total(&metrics.container, name, label);
    let all = seconds("container_cpu_usage_seconds_total", "total");
    ensure!(
        all == told.as_nanos().try_into().unwrap_or(u64::MAX) / SECOND_NS,
        "{all} s"
    );
    // A loop of a shell calls no kernel.
    let user = seconds("container_cpu_user_seconds_total", "");
    let system = seconds("container_cpu_system_seconds_total", "");
    ensure!(
        user >= 1 && user + system <= all,
        "{user} s and {system} s of {all} s"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_hundred_mebibytes_of_memory_are_told_as_a_hundred() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("memory", |_| ()).await?;
    // dd fills its buffer, and waits for somebody to take it.
    let touch = "dd if=/dev/zero bs=100M count=1 | sleep 1000000";
    let container = pod
        .start("touch", |config| {
            config.command = sh(touch);
            resources(config).memory_limit_in_bytes = 200 << 20;
        })
        .await?;
    let memory = container.cgroup("memory").await?;
    let anonymous = || {
        let read = memory.read_key("memory.stat", "total_rss");
        read.or_else(|_| memory.read_key("memory.stat", "anon"))
    };
    let of_kernel = until("the memory is touched", async || {
        anonymous().ok().filter(|bytes| *bytes >= 100 * MIB)
    })
    .await?;
    ensure!(of_kernel < 102 * MIB, "{of_kernel}");

    // The kernel gathers the counts of its processors every two seconds.
    let told = until("what the kernel counts is told", async || {
        let stats = container.stats().await.ok()?.memory?;
        (given(stats.rss_bytes).ok()? == anonymous().ok()?).then_some(stats)
    })
    .await?;
    let (usage, working_set) = (given(told.usage_bytes)?, given(told.working_set_bytes)?);
    ensure!(usage >= of_kernel && usage < 110 * MIB, "{told:?}");
    ensure!((of_kernel..=usage).contains(&working_set), "{told:?}");
    ensure!(
        given(told.available_bytes)? == 200 * MIB - working_set,
        "{told:?}"
    );
    ensure!(
        given(told.page_faults)? >= 100 * MIB / (2 * MIB),
        "{told:?}"
    );
    let linux = pod.stats().await?.linux.context("no figures")?;
    let of_pod = given(linux.memory.context("no memory")?.rss_bytes)?;
    ensure!((100 * MIB..104 * MIB).contains(&of_pod), "{of_pod}");

    let metrics = Metrics::read(&node).await?;
    let bytes = |name| total(&metrics.container, name, "");
    for (name, least) in [
        ("container_memory_rss", 100 * MIB),
        ("container_memory_usage_bytes", 100 * MIB),
        ("container_memory_working_set_bytes", 100 * MIB),
        ("container_memory_max_usage_bytes", 100 * MIB),
    ] {
        let told = bytes(name);
        ensure!(told >= least && told < least + 10 * MIB, "{name}: {told}");
    }
    ensure!(bytes("container_spec_memory_limit_bytes") == 200 * MIB);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_fifty_mebibytes_on_disk_are_told_as_fifty() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("disk", |_| ()).await?;
    let container = pod.start("write", |_| ()).await?;
    let layer = async || -> Result<(u64, u64)> {
        let stats = container.stats().await?;
        let layer = stats.writable_layer.context("no writable layer")?;
        Ok((given(layer.used_bytes)?, given(layer.inodes_used)?))
    };
    let before = layer().await?;
    container
        .sh("dd if=/dev/zero of=/file bs=1M count=50 && sync /file")
        .await?;
    let after = layer().await?;
    let (bytes, inodes) = (after.0 - before.0, after.1 - before.1);
    ensure!((50 * MIB..51 * MIB).contains(&bytes), "{bytes} bytes");
    ensure!(inodes == 1, "{inodes} inodes");
    let metrics = Metrics::read(&node).await?;
    let used = total(&metrics.container, "container_fs_usage_bytes", "");
    ensure!(used == after.0, "{used} {after:?}");

    // Version 1 counts only for devices that were throttled once: then all are 0.
    let before = written_bytes(&container).await?;
    let name = "container_fs_writes_bytes_total";
    let told = total(&Metrics::read(&node).await?.container, name, "");
    let after = written_bytes(&container).await?;
    ensure!(
        (before..=after).contains(&told),
        "{name}: {before} {told} {after}"
    );
    node.finish().await
}

/// What reached block devices, as the kernel counts it for a container's cgroup.
async fn written_bytes(container: &Container<'_>) -> Result<u64> {
    let (controller, file) = match cgroups_are_v2() {
        true => ("io", "io.stat"),
        false => ("blkio", "blkio.throttle.io_service_bytes_recursive"),
    };
    let stat = container.cgroup(controller).await?.read(file)?;
    let bytes = stat.lines().filter_map(|line| match cgroups_are_v2() {
        // `8:0 rbytes=0 wbytes=52428800 …`
        true => line
            .split(' ')
            .find_map(|word| word.strip_prefix("wbytes=")),
        // `8:0 Write 52428800`
        false => line.split_once(" Write ").map(|(_, bytes)| bytes),
    });
    bytes.map(|bytes| Ok(bytes.parse::<u64>()?)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_ten_mebibytes_over_the_network_are_told_as_ten_each_way() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("network", |_| ()).await?;
    let container = pod.start("nc", |_| ()).await?;
    let gateway = container
        .sh("ip -4 route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'")
        .await?;
    let host = TcpListener::bind(SocketAddr::new(gateway.parse()?, 0))?;
    let port = host.local_addr()?.port();
    // Sends what the pod sent back to it.
    let echo = std::thread::spawn(move || -> std::io::Result<usize> {
        let (mut stream, _) = host.accept()?;
        let mut all = vec![0; usize::try_from(10 * MIB).unwrap_or(0)];
        stream.read_exact(&mut all)?;
        stream.write_all(&all)?;
        Ok(all.len())
    });
    let received = container
        .sh(&format!(
            "head -c {} /dev/zero | nc {gateway} {port} | wc -c",
            10 * MIB
        ))
        .await?;
    ensure!(received == (10 * MIB).to_string(), "{received}");
    let echoed = echo.join().ok().context("the echo panicked")??;
    ensure!(u64::try_from(echoed)? == 10 * MIB, "{echoed}");

    let counters = async || -> Result<(u64, u64)> {
        let counts = container
            .sh("cd /sys/class/net/eth0/statistics && cat rx_bytes tx_bytes")
            .await?;
        let (rx, tx) = counts.split_once('\n').context("two lines")?;
        Ok((rx.parse()?, tx.parse()?))
    };
    let before = counters().await?;
    let linux = pod.stats().await?.linux.context("no figures")?;
    let eth0 = linux.network.and_then(|it| it.default_interface);
    let eth0 = eth0.context("no interface")?;
    let metrics = Metrics::read(&node).await?;
    let after = counters().await?;
    let told = (given(eth0.rx_bytes)?, given(eth0.tx_bytes)?);
    // Headers are a tenth of it at most.
    for bytes in [told.0, told.1] {
        ensure!((10 * MIB..11 * MIB).contains(&bytes), "{told:?}");
    }
    let between = |bytes, before, after| (before..=after).contains(&bytes);
    ensure!(
        between(told.0, before.0, after.0) && between(told.1, before.1, after.1),
        "{before:?} {told:?} {after:?}"
    );
    let rx = total(
        &metrics.pod,
        "container_network_receive_bytes_total",
        "eth0",
    );
    let tx = total(
        &metrics.pod,
        "container_network_transmit_bytes_total",
        "eth0",
    );
    ensure!(
        between(rx, before.0, after.0) && between(tx, before.1, after.1),
        "{before:?} {rx} {tx} {after:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_processes_threads_and_files_are_told_as_many_as_there_are() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("processes", |_| ()).await?;
    let many = "exec 7</etc/passwd; for i in 1 2 3 4; do sleep 1000000 & done; echo all; wait";
    let container = pod
        .start("many", |config| config.command = sh(many))
        .await?;
    container.wait_log("all").await?;
    let pids = container.cgroup("pids").await?;
    let current: u64 = pids.read("pids.current")?.parse()?;
    let of_pod: u64 = pids.parent().read("pids.current")?.parse()?;
    ensure!(current == 5, "{current}");
    let linux = pod.stats().await?.linux.context("no figures")?;
    let told = given(linux.process.context("no processes")?.process_count)?;
    ensure!(told == of_pod, "{told} of {of_pod}");
    // What was just forked may not have come to sleep yet.
    let metrics = until("five tasks sleep", async || {
        let metrics = Metrics::read(&node).await.ok()?;
        let sleeping = total(&metrics.container, "container_tasks_state", "sleeping");
        (sleeping == 5).then_some(metrics)
    });
    let metrics = metrics.await?;
    let count = |name, label| total(&metrics.container, name, label);
    ensure!(count("container_processes", "") == 5);
    ensure!(count("container_threads", "") == 5);
    // Each of the five has its three streams and the file.
    let files = count("container_file_descriptors", "");
    ensure!((20..=25).contains(&files), "{files}");
    node.finish().await
}

/// Who looks at cgroups, as the kubelet's own cAdvisor does, would go on telling of it.
#[tokio::test(flavor = "multi_thread")]
async fn privileged_ended_container_has_no_cgroup_any_more() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("ended", |_| ()).await?;
    let wait = "trap 'exit 3' TERM; while :; do sleep 0.1; done";
    let container = pod
        .start("main", |config| config.command = sh(wait))
        .await?;
    let cgroups = [
        container.cgroup("memory").await?,
        container.cgroup("pids").await?,
    ];
    container.stop(30).await?;
    eventually("its cgroups are gone", || {
        cgroups.iter().all(|cgroup| !cgroup.0.exists())
    })
    .await?;
    ensure!(container.status().await?.exit_code == 3);
    node.finish().await
}
