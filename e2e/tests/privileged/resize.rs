//! Limits that are changed in place, of containers and pods, measured from the kernel's own files.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{
    HugepageLimit, LinuxContainerResources, PodSandboxStatusRequest,
    UpdatePodSandboxResourcesRequest,
};
use crisp_e2e::{Cgroup, Container, Node, Pod, Process, resources, sh, until};
use serde_json::Value;
use tonic::{Code, Status};

const MIB: i64 = 1 << 20;

/// How an update differs from one that changes nothing.
type Change = fn(&mut LinuxContainerResources);

/// A file of the cgroup's version 1, or the one of version 2 that has the same meaning.
fn either(cgroup: &Cgroup, v1: &str, v2: &str) -> Result<String> {
    cgroup.read(v1).or_else(|_| cgroup.read(v2))
}

/// The limits of a process that the kernel has in force.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InForce {
    cpu_shares: String,
    cpu_quota: String,
    cpu_period: String,
    cpuset_cpus: String,
    memory_limit: String,
}

impl InForce {
    fn on(process: Process) -> Result<Self> {
        let (cpu, memory) = (process.cgroup("cpu")?, process.cgroup("memory")?);
        let max = cpu.read("cpu.max").unwrap_or_default();
        let (quota, period) = max.split_once(' ').unwrap_or_default();
        Ok(Self {
            cpu_shares: either(&cpu, "cpu.shares", "cpu.weight")?,
            cpu_quota: cpu.read("cpu.cfs_quota_us").unwrap_or(quota.to_owned()),
            cpu_period: cpu.read("cpu.cfs_period_us").unwrap_or(period.to_owned()),
            cpuset_cpus: process.cgroup("cpuset")?.read("cpuset.cpus")?,
            memory_limit: either(&memory, "memory.limit_in_bytes", "memory.max")?,
        })
    }

    async fn of(container: &Container<'_>) -> Result<Self> {
        Self::on(container.process().await?)
    }
}

fn refused(result: Result<(), Status>, code: Code, named: &str) -> Result<()> {
    let error = result.err().context("it was accepted")?;
    ensure!(error.code() == code, "{error}");
    ensure!(error.message().contains(named), "no {named:?} in {error}");
    Ok(())
}

async fn limited<'a>(pod: &Pod<'a>) -> Result<Container<'a>, Status> {
    pod.start("main", |config| {
        let limits = resources(config);
        limits.cpu_shares = 512;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
        limits.cpuset_cpus = "0".to_owned();
        limits.memory_limit_in_bytes = 64 * MIB;
        limits.oom_score_adj = 700;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_partial_updates_keep_the_rest_and_survive_a_restart() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("resize", |_| ()).await?;
    let container = limited(&pod).await?;
    let before = InForce::of(&container).await?;
    ensure!(
        (before.cpu_quota.as_str(), before.cpu_period.as_str()) == ("50000", "100000"),
        "{before:?}"
    );

    container.update(|limits| limits.cpu_quota = 20_000).await?;
    let expected = InForce {
        cpu_quota: "20000".to_owned(),
        ..before
    };
    ensure!(InForce::of(&container).await? == expected);

    node.kill()?;
    node.restart().await?;
    ensure!(container.limits().await?.cpu_quota == 20_000);
    // Less than before, and more again.
    for memory in [48 * MIB, 80 * MIB] {
        container
            .update(|limits| limits.memory_limit_in_bytes = memory)
            .await?;
        let expected = InForce {
            memory_limit: memory.to_string(),
            ..expected.clone()
        };
        ensure!(InForce::of(&container).await? == expected);
    }
    let told = LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        cpuset_cpus: "0".to_owned(),
        memory_limit_in_bytes: 80 * MIB,
        oom_score_adj: 700,
        ..LinuxContainerResources::default()
    };
    let limits = container.limits().await?;
    ensure!(limits == told, "{limits:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_update_of_a_created_container_holds_when_it_starts() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("resize", |_| ()).await?;
    let container = pod
        .create("main", |config| {
            resources(config).memory_limit_in_bytes = 64 * MIB;
            resources(config).oom_score_adj = 500;
        })
        .await?;
    container
        .update(|limits| {
            limits.memory_limit_in_bytes = 32 * MIB;
            limits.oom_score_adj = 600;
        })
        .await?;
    container.start().await?;
    let in_force = InForce::of(&container).await?;
    ensure!(
        in_force.memory_limit == (32 * MIB).to_string(),
        "{in_force:?}"
    );
    ensure!(container.sh("cat /proc/1/oom_score_adj").await? == "600");
    container.stop(0).await?;
    let late = container.update(|limits| limits.cpu_shares = 2).await;
    refused(late, Code::FailedPrecondition, "has ended")?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_update_that_is_refused_changes_nothing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("resize", |_| ()).await?;
    let container = limited(&pod).await?;
    let (before, told) = (InForce::of(&container).await?, container.limits().await?);
    let cases: [(&str, Change); 3] = [
        ("cpuset", |limits| limits.cpuset_cpus = "4000".to_owned()),
        ("memory", |limits| limits.memory_limit_in_bytes = 4096),
        ("quota", |limits| limits.cpu_quota = 1),
    ];
    for (named, change) in cases {
        let update = container.update(|limits| {
            limits.cpu_shares = 2048;
            change(limits);
        });
        refused(update.await, Code::InvalidArgument, named)?;
        let after = InForce::of(&container).await?;
        ensure!(after == before, "{named}: {before:?} became {after:?}");
        ensure!(container.limits().await? == told, "{named}");
    }
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_update_of_the_oom_score_reaches_every_process() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("resize", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.command = sh("sleep 1000000 & sleep 1000000");
            resources(config).oom_score_adj = 700;
        })
        .await?;
    let first = container.process().await?;
    until("its child runs", async || first.children().pop()).await?;
    for score in [900, 800] {
        container
            .update(|limits| limits.oom_score_adj = score)
            .await?;
        let mut processes = first.children();
        processes.push(first);
        for process in processes {
            let path = format!("/proc/{}/oom_score_adj", process.0);
            let in_force = std::fs::read_to_string(path)?;
            ensure!(in_force.trim() == score.to_string(), "{in_force}");
        }
        ensure!(container.limits().await?.oom_score_adj == score);
        let executed = container.sh("cat /proc/self/oom_score_adj").await?;
        ensure!(executed == score.to_string(), "an exec has {executed}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_swap_is_limited_together_with_memory() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("swap", |_| ()).await?;
    let start = async |name, swap| {
        let container = pod.start(name, |config| {
            resources(config).memory_limit_in_bytes = 64 * MIB;
            resources(config).memory_swap_limit_in_bytes = swap;
        });
        container.await
    };
    // Memory and swap together, on both versions.
    let in_force = async |container: &Container<'_>| {
        let cgroup = container.cgroup("memory").await?;
        let number = |file| anyhow::Ok(cgroup.read(file)?.parse::<i64>()?);
        number("memory.memsw.limit_in_bytes")
            .or_else(|_| anyhow::Ok(number("memory.swap.max")? + number("memory.max")?))
    };
    // Without a word about swap there is none.
    ensure!(in_force(&start("none", 0).await?).await? == 64 * MIB);
    let some = start("some", 96 * MIB).await?;
    ensure!(in_force(&some).await? == 96 * MIB);
    some.update(|limits| limits.memory_limit_in_bytes = 80 * MIB)
        .await?;
    ensure!(in_force(&some).await? == 96 * MIB);
    ensure!(some.limits().await?.memory_swap_limit_in_bytes == 96 * MIB);
    some.update(|limits| limits.memory_swap_limit_in_bytes = 128 * MIB)
        .await?;
    ensure!(in_force(&some).await? == 128 * MIB);
    let less = some
        .update(|limits| limits.memory_swap_limit_in_bytes = 16 * MIB)
        .await;
    refused(less, Code::InvalidArgument, "swap")?;
    ensure!(in_force(&some).await? == 128 * MIB);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_hugepage_limits_hold_where_the_kernel_has_the_controller() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("hugepages", |_| ()).await?;
    // As the kubelet sends it whether or not the node counts huge pages.
    let limit = |limit| HugepageLimit {
        page_size: "2MB".to_owned(),
        limit,
    };
    let container = pod
        .start("main", |config| {
            resources(config).hugepage_limits = vec![limit(4 << 20)]
        })
        .await?;
    let in_force = async || {
        let cgroup = container.cgroup("hugetlb").await?;
        either(&cgroup, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")
    };
    let counted = in_force().await.is_ok();
    for bytes in [4 << 20, 2 << 20] {
        container
            .update(|limits| limits.hugepage_limits = vec![limit(bytes)])
            .await?;
        ensure!(!counted || in_force().await? == bytes.to_string());
        ensure!(container.limits().await?.hugepage_limits == [limit(bytes)]);
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_unified_limits_hold_on_version_2_and_are_refused_on_version_1() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("unified", |_| ()).await?;
    let started = pod
        .start("main", |config| {
            let high = ("memory.high".to_owned(), (32 * MIB).to_string());
            resources(config).unified = [high].into();
        })
        .await;
    match started {
        Ok(container) => {
            let memory = container.cgroup("memory").await?;
            ensure!(memory.read("memory.high")? == (32 * MIB).to_string());
        }
        Err(error) => {
            let version_1 = std::path::Path::new("/sys/fs/cgroup/memory").exists();
            ensure!(version_1 && error.message().contains("unified"), "{error}");
            ensure!(node.containers().await?.is_empty());
        }
    }
    node.finish().await
}

async fn resize(pod: &Pod<'_>, node: &Node, memory: i64, shares: i64) -> Result<(), Status> {
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: None,
        resources: Some(LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_shares: shares,
            ..LinuxContainerResources::default()
        }),
    };
    let answer = node.runtime().update_pod_sandbox_resources(request).await;
    answer.map(drop)
}

/// The verbose information of a pod.
async fn info(pod: &Pod<'_>, node: &Node) -> Result<Value> {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    let answer = node.runtime().pod_sandbox_status(request).await?;
    let info = answer.into_inner().info;
    Ok(serde_json::from_str(info.get("info").context("no info")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_is_resized_where_its_cgroup_is_the_runtimes() -> Result<()> {
    let node = Node::start().await?;
    // Without a parent from the kubelet nobody but the runtime has a cgroup for the pod.
    let own = node
        .run_pod("own", |config| {
            config.linux.get_or_insert_default().cgroup_parent.clear()
        })
        .await?;
    let container = own.start("main", |_| ()).await?;
    let of_pod = async || {
        let cgroup = container.cgroup("memory").await?.parent();
        either(&cgroup, "memory.limit_in_bytes", "memory.max")
    };
    let unlimited = of_pod().await?;
    resize(&own, &node, 128 * MIB, 512).await?;
    ensure!(of_pod().await? == (128 * MIB).to_string());
    node.kill()?;
    node.restart().await?;
    // What is left out stays, also after a restart.
    resize(&own, &node, 0, 256).await?;
    let told = info(&own, &node).await?;
    let resources = &told["config"]["resources"];
    ensure!(resources["memory_limit_bytes"] == 128 * MIB, "{resources}");
    ensure!(resources["cpu_shares"] == 256, "{resources}");

    let kubelets = node.run_pod("kubelets", |_| ()).await?;
    resize(&kubelets, &node, 64 * MIB, 0).await?;
    let other = kubelets.start("main", |_| ()).await?;
    let cgroup = other.cgroup("memory").await?.parent();
    // The kubelet writes the limits of its pods itself, after this call.
    ensure!(either(&cgroup, "memory.limit_in_bytes", "memory.max")? == unlimited);

    own.stop().await?;
    let late = resize(&own, &node, 64 * MIB, 0).await;
    refused(late, Code::FailedPrecondition, "not ready")?;
    node.finish().await
}
