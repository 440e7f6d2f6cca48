//! The life of a pod: it runs, this and that happens to it, and nothing of it is left.

use crate::container::Container;
use crate::container::Stage;
use crate::kubelet::{Kubelet, Want, no_refusal};
use crate::population::Resident;
use crate::traces;
use crate::workload::Workload;
use crate::world::add_one;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::{container_config, own_users, resources};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

const CONTAINERS_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Pod {
    resident: Arc<Resident>,
    config: PodSandboxConfig,
    containers: Vec<Container>,
    /// The attempts of each container's name so far.
    attempts: BTreeMap<&'static str, u32>,
}

impl Pod {
    /// A whole life under a name.
    pub(crate) async fn live(kubelet: &mut Kubelet, name: &str) -> Result<()> {
        let mut pod = Self::run(kubelet, name).await?;
        for _ in 0..kubelet.random.between(2, 25) {
            let world = kubelet.world.clone();
            if world.is_ending() {
                break;
            }
            {
                let _step = world.steps.read().await;
                pod.step(&mut kubelet.fork()).await?;
            }
            if pod.resident.is_doomed() {
                break;
            }
            let pause = kubelet.random.milliseconds(0, 200);
            world.pause(pause).await;
        }
        pod.leave(kubelet).await
    }

    async fn run(kubelet: &mut Kubelet, name: &str) -> Result<Self> {
        let world = kubelet.world.clone();
        let _step = world.steps.read().await;
        let config = choose_config(kubelet, name)?;
        let handler = match kubelet.random.chance(15) {
            true => "runc",
            false => "",
        };
        let id = run_pod(kubelet, &config, handler).await?;
        add_one(&world.tally.pods);
        let status = status_of(kubelet, &id)
            .await?
            .context("a pod that runs is not known")?;
        let resident = world.population.admit(&id, &addresses(&status)?)?;
        let pod = Self {
            resident,
            config,
            containers: Vec::new(),
            attempts: BTreeMap::new(),
        };
        pod.check(&status)?;
        Ok(pod)
    }

    async fn step(&mut self, kubelet: &mut Kubelet) -> Result<()> {
        let enough = self.containers.len() >= CONTAINERS_MAX;
        if self.containers.is_empty() || (!enough && kubelet.random.chance(20)) {
            return self.create(kubelet).await;
        }
        let index = kubelet.random.index(self.containers.len());
        let choice = kubelet.random.between(0, 100);
        let (pod, container) = (&self.resident, &mut self.containers[index]);
        match (container.stage, choice) {
            (Stage::Created, 0..80) => container.start(kubelet, pod).await,
            (Stage::Started, 0..25) => container.stop(kubelet, pod).await,
            (_, 0..35) => {
                self.containers
                    .swap_remove(index)
                    .remove(kubelet, &self.resident)
                    .await
            }
            (_, 35..45) => container.observe(kubelet, pod).await,
            (_, 45..50) => self.observe(kubelet).await,
            _ if !container.lasts() => container.observe(kubelet, pod).await,
            (_, 50..65) => container.exec(kubelet, pod).await,
            (_, 65..68) => container.exec_too_long(kubelet, pod).await,
            (_, 68..74) => container.exec_stream(kubelet, pod).await,
            (_, 74..78) => container.attach(kubelet, pod).await,
            (_, 78..85) => container.compare_log(kubelet, pod).await,
            (_, 85..92) => container.rotate_log(kubelet, pod).await,
            _ => container.update(kubelet, pod).await,
        }
    }

    async fn create(&mut self, kubelet: &mut Kubelet) -> Result<()> {
        let free = ["main", "side", "init", "extra", "last"];
        let name = *kubelet.random.pick(&free);
        let attempt = self.attempts.entry(name).or_default();
        *attempt += 1;
        let workload = Workload::choose(&mut kubelet.random);
        let mut config = container_config(name, &self.config);
        config.metadata = Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: *attempt,
        });
        config.log_path = format!("{name}/{attempt}.log");
        config.command = workload.command();
        config.stdin = workload.listens();
        if let Some(limit) = workload.memory_limit_bytes() {
            resources(&mut config).memory_limit_in_bytes = limit;
        }
        config.envs.push(KeyValue {
            key: "NAME".to_owned(),
            value: format!("{name}-{attempt}"),
        });
        let log_dir = format!("{}/{name}", self.config.log_directory);
        fs::create_dir_all(log_dir)?;
        let created =
            Container::create(kubelet, &self.resident, &self.config, config, workload).await?;
        self.containers.extend(created);
        Ok(())
    }

    async fn observe(&mut self, kubelet: &mut Kubelet) -> Result<()> {
        let id = &self.resident.id;
        let status = status_of(kubelet, id)
            .await?
            .context("a pod that was not removed is not known")?;
        self.check(&status)?;
        if self.resident.is_doomed() {
            return Ok(());
        }
        traces::has_cgroup(&kubelet.world.node, id)
    }

    fn check(&self, status: &PodSandboxStatus) -> Result<()> {
        let ready = status.state() == PodSandboxState::SandboxReady;
        ensure!(
            ready || self.resident.is_doomed(),
            "the pod is not ready: {status:?}"
        );
        Ok(())
    }

    /// Stops and removes it in one of the orders that kubelets have, and some that they have not.
    async fn leave(mut self, kubelet: &mut Kubelet) -> Result<()> {
        let world = kubelet.world.clone();
        let _step = world.steps.read().await;
        if self.resident.is_doomed() {
            self.await_end(kubelet).await?;
        }
        let order = kubelet.random.between(0, 4);
        if order == 0 {
            for container in &mut self.containers {
                container.stop(kubelet, &self.resident).await?;
            }
        }
        if order <= 1 {
            for container in self.containers.drain(..) {
                container.remove(kubelet, &self.resident).await?;
            }
        }
        if order <= 2 {
            self.stop(kubelet).await?;
            for container in &mut self.containers {
                container.observe(kubelet, &self.resident).await?;
            }
        }
        self.remove(kubelet).await
    }

    /// A pod whose shim or pause process was killed is told as such, and its containers as ended.
    async fn await_end(&mut self, kubelet: &mut Kubelet) -> Result<()> {
        let (mut kubelet, begun) = (kubelet.fork(), kubelet.world.faults.start());
        loop {
            let status = status_of(&mut kubelet, &self.resident.id)
                .await?
                .context("a pod is not known")?;
            if status.state() == PodSandboxState::SandboxNotready {
                return Ok(());
            }
            ensure!(
                !kubelet.world.faults.is_overdue(begun, Duration::ZERO),
                "a pod whose shim or pause process was killed is still ready: {status:?}"
            );
            tokio::time::sleep(kubelet.random.milliseconds(50, 200)).await;
        }
    }

    async fn stop(&mut self, kubelet: &mut Kubelet) -> Result<()> {
        let id = self.resident.id.clone();
        self.containers.iter_mut().for_each(Container::expect_kill);
        kubelet.world.population.release_addresses(&id);
        stop_pod(kubelet, &id).await?;
        self.containers.iter_mut().for_each(Container::was_killed);
        let status = status_of(kubelet, &id)
            .await?
            .context("a stopped pod is not known")?;
        ensure!(
            status.state() == PodSandboxState::SandboxNotready,
            "a stopped pod is ready: {status:?}"
        );
        Ok(())
    }

    async fn remove(self, kubelet: &mut Kubelet) -> Result<()> {
        let id = self.resident.id.clone();
        kubelet.world.population.leave(&self.resident);
        remove_pod(kubelet, &id).await?;
        kubelet.world.population.bury(&id);
        for container in self.containers {
            kubelet.world.population.bury(&container.lodger.id);
        }
        ensure!(
            status_of(kubelet, &id).await?.is_none(),
            "{id} is removed and has a status"
        );
        traces::of_pod(&kubelet.world.node, &id)?;
        fs::remove_dir_all(&self.config.log_directory)?;
        Ok(())
    }
}

fn choose_config(kubelet: &mut Kubelet, name: &str) -> Result<PodSandboxConfig> {
    let mut config = kubelet.world.node.pod_config(name);
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let namespaces = security.namespace_options.get_or_insert_default();
    if kubelet.random.chance(20) {
        namespaces.network = NamespaceMode::Node.into();
    }
    if kubelet.random.chance(20) {
        namespaces.pid = NamespaceMode::Pod.into();
    }
    if kubelet.random.chance(20) {
        own_users(&mut config);
    }
    if kubelet.random.chance(20) {
        let port = 21_000 + u16::from(kubelet.world.node.number()) * 64 + kubelet.number;
        // On the host's network it is the host's already.
        config.port_mappings.push(PortMapping {
            container_port: port.into(),
            host_port: port.into(),
            ..PortMapping::default()
        });
    }
    fs::create_dir_all(&config.log_directory)?;
    Ok(config)
}

/// Runs a pod. Twice at the same time it is still one. What a failed attempt has left under its name is
/// taken away first, as the kubelet does.
async fn run_pod(
    kubelet: &mut Kubelet,
    config: &PodSandboxConfig,
    handler: &str,
) -> Result<String> {
    let twice = kubelet.random.chance(10);
    loop {
        let settled = kubelet
            .settle(
                Want::new("RunPodSandbox", &config.hostname),
                |status| status.code() == Code::AlreadyExists,
                async |client, patience| {
                    let run = async || {
                        let request = RunPodSandboxRequest {
                            config: Some(config.clone()),
                            runtime_handler: handler.to_owned(),
                        };
                        let answer = client
                            .runtime()
                            .run_pod_sandbox(patience.request(request))
                            .await;
                        answer.map(|answer| answer.into_inner().pod_sandbox_id)
                    };
                    if !twice {
                        return Ok((run().await?, None));
                    }
                    let (one, other) = tokio::join!(run(), run());
                    Ok((one?, Some(other?)))
                },
            )
            .await?;
        match settled.answer {
            Ok((id, other)) => {
                ensure!(
                    other.as_ref().is_none_or(|other| *other == id),
                    "one pod was made twice: {id}, {other:?}"
                );
                return Ok(id);
            }
            Err(status) => {
                ensure!(
                    settled.repeated || twice,
                    "the name of a removed pod is taken: {status:?}"
                );
                clear_name(kubelet, config).await?;
            }
        }
    }
}

async fn clear_name(kubelet: &mut Kubelet, config: &PodSandboxConfig) -> Result<()> {
    let settled = kubelet
        .settle(
            Want::new("ListPodSandbox", &config.hostname),
            no_refusal,
            async |client, patience| {
                let request = patience.request(ListPodSandboxRequest::default());
                let answer = client.runtime().list_pod_sandbox(request).await;
                answer.map(|answer| answer.into_inner().items)
            },
        )
        .await?;
    for pod in settled.must()? {
        if pod.metadata == config.metadata {
            kubelet.note(format_args!("pod {} is left of an attempt", pod.id));
            stop_pod(kubelet, &pod.id).await?;
            remove_pod(kubelet, &pod.id).await?;
        }
    }
    Ok(())
}

async fn stop_pod(kubelet: &mut Kubelet, id: &str) -> Result<()> {
    let twice = kubelet.random.chance(10);
    let settled = kubelet
        .settle(
            Want::new("StopPodSandbox", id),
            no_refusal,
            async |client, patience| {
                let stop = async || {
                    let request = StopPodSandboxRequest {
                        pod_sandbox_id: id.to_owned(),
                    };
                    client
                        .runtime()
                        .stop_pod_sandbox(patience.request(request))
                        .await
                };
                if twice {
                    let (one, other) = tokio::join!(stop(), stop());
                    return one.and(other).map(drop);
                }
                stop().await.map(drop)
            },
        )
        .await?;
    settled.must()
}

async fn remove_pod(kubelet: &mut Kubelet, id: &str) -> Result<()> {
    let settled = kubelet
        .settle(
            Want::new("RemovePodSandbox", id),
            no_refusal,
            async |client, patience| {
                let request = RemovePodSandboxRequest {
                    pod_sandbox_id: id.to_owned(),
                };
                client
                    .runtime()
                    .remove_pod_sandbox(patience.request(request))
                    .await
                    .map(drop)
            },
        )
        .await?;
    settled.must()
}

/// None: no such pod is known.
async fn status_of(kubelet: &mut Kubelet, id: &str) -> Result<Option<PodSandboxStatus>> {
    let settled = kubelet
        .settle(
            Want::new("PodSandboxStatus", id),
            |status| status.code() == Code::NotFound,
            async |client, patience| {
                let request = PodSandboxStatusRequest {
                    pod_sandbox_id: id.to_owned(),
                    verbose: false,
                };
                let answer = client
                    .runtime()
                    .pod_sandbox_status(patience.request(request))
                    .await;
                answer.map(tonic::Response::into_inner)
            },
        )
        .await?;
    Ok(settled.answer.ok().and_then(|answer| answer.status))
}

fn addresses(status: &PodSandboxStatus) -> Result<Vec<IpAddr>> {
    let Some(network) = &status.network else {
        return Ok(Vec::new());
    };
    let others = network.additional_ips.iter().map(|other| &other.ip);
    let all = [&network.ip]
        .into_iter()
        .filter(|ip| !ip.is_empty())
        .chain(others);
    all.map(|address| Ok(address.parse()?)).collect()
}
