//! Limits, measured from the kernel's own counters.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::VersionRequest;
use crisp_e2e::{Cgroup, Node, resources, sh, until};
use std::time::{Duration, Instant};

const SPIN: &str = "while :; do :; done";
const MIB: i64 = 1 << 20;

/// The cgroup itself or the nearest one above it whose file has this value.
fn at_or_above(cgroup: &Cgroup, file: &str, value: &str) -> Result<Cgroup> {
    let mut current = cgroup.clone();
    for _ in 0..8 {
        if current.read(file).is_ok_and(|content| content == value) {
            return Ok(current);
        }
        current = current.parent();
    }
    anyhow::bail!("no {file} of {value} at or above {cgroup:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_fork_bomb_stops_at_the_pods_pid_limit() -> Result<()> {
    let node =
        Node::start_with(|config| drop(config.insert("pod_pids_limit".to_owned(), 64.into())))
            .await?;
    let pod = node.run_pod("bomb", |_| ()).await?;
    let bomb = "bomb() { bomb | bomb & }; bomb";
    let container = pod
        .start("bomb", |config| {
            config.command = sh(&format!("sh -c '{bomb}'; sleep 1000000"))
        })
        .await?;
    container
        .wait_log("Resource temporarily unavailable")
        .await?;

    let own = container.cgroup("pids").await?;
    let pod_cgroup = at_or_above(&own, "pids.max", "64")?;
    let current: u64 = pod_cgroup.read("pids.current")?.parse()?;
    ensure!(current <= 64, "{current} processes");
    let refused =
        own.read_key("pids.events", "max")? + pod_cgroup.read_key("pids.events", "max")?;
    ensure!(refused > 0, "the kernel refused no fork");

    // The node stays responsive: it answers, and other pods start and work.
    let began = Instant::now();
    let other = node.run_pod("other", |_| ()).await?;
    let other = other.start("other", |_| ()).await?;
    let started = began.elapsed();
    let mut answers = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        node.runtime().version(VersionRequest::default()).await?;
        ensure!(other.sh("echo alive").await? == "alive");
        answers.push(began.elapsed());
    }
    answers.sort_unstable();
    let (median, slowest) = (answers[answers.len() / 2], answers[answers.len() - 1]);
    eprintln!("beside a fork bomb: start {started:.1?}, exec {median:.1?}, at most {slowest:.1?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pid_limit_of_a_handler_overrides_the_general_one() -> Result<()> {
    let node = Node::start_with(|config| {
        config.insert("container_pids_limit".to_owned(), 48.into());
        config.insert(
            "handlers".to_owned(),
            toml::toml! { batch = { container_pids_limit = 16 } }.into(),
        );
    })
    .await?;
    for (handler, limit) in [("", "48"), ("batch", "16")] {
        let pod = node
            .run_pod_with_handler(&format!("pod-{limit}"), handler, |_| ())
            .await?;
        let container = pod.start("main", |_| ()).await?;
        let pids = container.cgroup("pids").await?;
        ensure!(
            pids.read("pids.max")? == limit,
            "handler {handler:?}: {}",
            pids.read("pids.max")?
        );
    }
    node.finish().await
}

fn cpu_weight(cgroup: &Cgroup) -> Result<f64> {
    let weight = cgroup
        .read("cpu.weight")
        .or_else(|_| cgroup.read("cpu.shares"))?;
    Ok(weight.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cpu_shares_divide_one_cpu_as_the_kernel_weighs_them() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("shares", |_| ()).await?;
    let spin = async |name: &str, shares| {
        let container = pod.start(name, |config| {
            config.command = sh(SPIN);
            let resources = resources(config);
            resources.cpu_shares = shares;
            resources.cpuset_cpus = "0".to_owned();
        });
        let container = container.await?;
        let weight = cpu_weight(&container.cgroup("cpu").await?)?;
        anyhow::Ok((container.cgroup("cpuacct").await?, weight))
    };
    let (small, small_weight) = spin("small", 1024).await?;
    let (large, large_weight) = spin("large", 4096).await?;
    let (small_before, large_before) = (small.cpu_usage()?, large.cpu_usage()?);
    let (small_used, large_used) = until("two seconds of processor time are used", async || {
        let used = (
            small.cpu_usage().ok()? - small_before,
            large.cpu_usage().ok()? - large_before,
        );
        (used.0 + used.1 > Duration::from_secs(2)).then_some(used)
    })
    .await?;
    // Four to one on version 1; on version 2 the weights of shares lie on a curve.
    let wanted = large_weight / small_weight;
    let ratio = large_used.as_secs_f64() / small_used.as_secs_f64();
    ensure!(wanted > 2.9, "weights are 1:{wanted:.2}");
    ensure!(
        (0.8..1.25).contains(&(ratio / wanted)),
        "1:{ratio:.2}, not 1:{wanted:.2}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cpu_quota_of_half_a_period_uses_half_a_cpu() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("quota", |_| ()).await?;
    let container = pod
        .start("spin", |config| {
            config.command = sh(SPIN);
            let resources = resources(config);
            resources.cpu_quota = 50_000;
            resources.cpu_period = 100_000;
        })
        .await?;
    let (bandwidth, usage) = (
        container.cgroup("cpu").await?,
        container.cgroup("cpuacct").await?,
    );
    let sample = || {
        let periods = u32::try_from(bandwidth.read_key("cpu.stat", "nr_periods")?)?;
        let throttled = bandwidth.read_key("cpu.stat", "nr_throttled")?;
        anyhow::Ok((periods, throttled, usage.cpu_usage()?))
    };
    let mut last = sample()?;
    // Other load on this machine may take time from the container, so that it does not reach its
    // quota for a while; it never gets more.
    let share = until(
        "a window of ten periods in which the quota holds it back",
        async || {
            let now = sample().ok()?;
            let (periods, throttled) = (now.0 - last.0, now.1 - last.1);
            if periods < 10 {
                return None;
            }
            let share = (now.2 - last.2).as_secs_f64() / (f64::from(periods) * 0.1);
            last = now;
            (share > 0.45 && throttled > 0).then_some(share)
        },
    )
    .await?;
    ensure!(share < 0.56, "{share:.2} of a cpu");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_over_its_memory_limit_is_oom_killed() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("oom", |_| ()).await?;
    let container = pod
        .start("eater", |config| {
            config.command = sh(
                "until [ -e /tmp/go ]; do sleep 0.05; done; x=0123456789; while :; do x=$x$x; done",
            );
            resources(config).memory_limit_in_bytes = 32 * MIB;
        })
        .await?;
    let memory = container.cgroup("memory").await?;
    let limit = memory
        .read("memory.limit_in_bytes")
        .or_else(|_| memory.read("memory.max"))?;
    ensure!(limit == (32 * MIB).to_string(), "{limit}");
    container.let_go("/tmp/go").await?;
    let status = container.wait_exit().await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (137, "OOMKilled"),
        "{status:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_resources_are_in_force_and_can_be_updated() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("resources", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            let resources = resources(config);
            resources.cpu_shares = 512;
            resources.memory_limit_in_bytes = 64 * MIB;
            resources.oom_score_adj = 700;
            resources.cpuset_cpus = "0".to_owned();
        })
        .await?;
    ensure!(container.sh("cat /proc/1/oom_score_adj").await? == "700");
    ensure!(
        container
            .sh("grep Cpus_allowed_list /proc/1/status")
            .await?
            .ends_with("\t0")
    );
    let cpu = container.cgroup("cpu").await?;
    let shares = cpu.read("cpu.shares").or_else(|_| cpu.read("cpu.weight"))?;
    ensure!(["512", "20", "59"].contains(&shares.as_str()), "{shares}");

    container
        .update(|limits| limits.memory_limit_in_bytes = 96 * MIB)
        .await?;
    let memory = container.cgroup("memory").await?;
    let limit = memory
        .read("memory.limit_in_bytes")
        .or_else(|_| memory.read("memory.max"))?;
    ensure!(limit == (96 * MIB).to_string(), "{limit}");
    ensure!(
        cpu.read("cpu.shares").or_else(|_| cpu.read("cpu.weight"))? == shares,
        "an update of memory changed the shares"
    );
    let reported = container.limits().await?;
    ensure!(
        (reported.memory_limit_in_bytes, reported.cpu_shares) == (96 * MIB, 512),
        "{reported:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_stats_agree_with_the_kernels_counters() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("stats", |_| ()).await?;
    let container = pod
        .start("spin", |config| config.command = sh(SPIN))
        .await?;
    let cpu = container.cgroup("cpuacct").await?;
    until("some processor time is used", async || {
        (cpu.cpu_usage().ok()? > Duration::from_millis(200)).then_some(())
    })
    .await?;
    let stats = async || {
        let cpu = container.stats().await?.cpu;
        let usage = cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
        anyhow::Ok(Duration::from_nanos(usage.context("no cpu usage")?.value))
    };
    let (before, reported, after) = (cpu.cpu_usage()?, stats().await?, cpu.cpu_usage()?);
    // Figures may be a sample that is a few seconds old, never one from the future.
    ensure!(reported <= after, "{reported:?} reported, {after:?} used");
    until("the figure passes what was used before", async || {
        (stats().await.ok()? >= before).then_some(())
    })
    .await?;
    let linux = pod.stats().await?.linux.context("no figures of the pod")?;
    ensure!(linux.containers.len() == 1, "{linux:?}");
    ensure!(linux.network.is_some_and(|network| {
        network
            .default_interface
            .is_some_and(|eth| eth.name == "eth0")
    }));
    node.finish().await
}
