//! Starting a pod: record, shim, cgroups, pause, network.

use super::{Pod, files, sysctl};
use crate::engine::{Engine, detached};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::files::make_private_dir;
use crate::host;
use crate::making::Making;
use crate::record::PodRecord;
use crate::shim::{Asked, Shim, Unborn, unexpected};
use crate::store::Reserved;
use crisp_cgroup::CgroupPath;
use crisp_crash::point;
use crisp_metrics::Phase;
use crisp_model::spec::linux_resources;
use crisp_model::{
    ContainerLabels, IdMapping, NamespaceMode, PodConfig, PodId, PodState, SelinuxContext,
};
use crisp_shim_api::message::{IdMap, PodStarted, StartPod, reply, request};
use oci_spec::runtime::LinuxPidsBuilder;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;

/// Size of the /dev/shm that the containers of a pod share, as docker has it.
const SHM_SIZE_BYTES: u64 = 64 << 20;

/// The pause process is the last of its pod that the kernel should take memory from.
const PAUSE_OOM_SCORE_ADJ: i32 = -998;

impl Engine {
    /// Starts a pod. Asked again with the same metadata and configuration, it waits for, or gives, the
    /// pod that was made for the first request.
    ///
    /// # Errors
    /// If the configuration is wrong, the name is taken by another pod, or a part cannot be made;
    /// nothing is left then.
    pub async fn run_pod(self: &Arc<Self>, config: PodConfig, handler: &str) -> Result<PodId> {
        check_pod(&config)?;
        let record = self.plan_pod(config, handler)?;
        let pod = Pod::new(record, Making::pending());
        let pod = match self.store.insert_pod(&pod) {
            Reserved::New => {
                point!("run-pod.named");
                let (engine, new) = (self.clone(), pod.clone());
                detached(async move {
                    engine.start_pod(&new).await;
                    Ok(())
                })
                .await?;
                pod
            }
            Reserved::Taken(holder) => {
                adoptable(&holder, &pod)?;
                holder
            }
        };
        pod.making.wait().await?;
        Ok(pod.id().clone())
    }

    fn plan_pod(&self, config: PodConfig, handler: &str) -> Result<PodRecord> {
        let id = PodId::generate();
        let runtime = self.handlers().runtime_for(handler, &config)?;
        let settings = self.config();
        let parent = config
            .cgroup_parent
            .as_ref()
            .unwrap_or(&settings.cgroup.default_parent);
        let parent = self.hierarchies.resolve_parent(Some(parent))?;
        let cgroup = parent.join(&Pod::cgroup_name(&id))?;
        let cgroup = cgroup.as_str().to_owned();
        let record = PodRecord::new(id, config, handler, &self.host.boot_id, None, cgroup);
        Ok(PodRecord { runtime, ..record })
    }

    /// Makes the pod, or takes down what was made of it.
    async fn start_pod(&self, pod: &Arc<Pod>) {
        let _operation = pod.operation.lock().await;
        let result = self.make_pod(pod).await;
        if result.is_err() {
            point!("run-pod.failed");
            // The client sees what is left as a pod that is not ready, until it is taken down.
            if let Err(left) = self.forget_pod(pod).await {
                tracing::warn!(pod = %pod.id(), error = chain(&left), "something of a failed pod is left");
            }
        }
        pod.making.finish(result);
    }

    async fn make_pod(&self, pod: &Arc<Pod>) -> Result<()> {
        let config = pod.config();
        let hostname = hostname(&config)?;
        let planned = async { self.plan_and_record(pod) };
        self.phase(Phase::PodRecord, planned).await?;
        let labels = self.selinux.of_pod(&pod.record());
        let run_dir = self.pod_run_dir(pod.id());
        make_private_dir(&run_dir)?;
        point!("run-pod.run-dir-made");
        let unborn = Shim::expect(pod.id(), &run_dir)?;
        let greeting = unborn.shim().greet().await?;
        let asked = self.ask_for_pause(pod, unborn.shim(), hostname.clone(), labels.clone());
        let shim = async { self.spawn_shim(pod, unborn) };
        let shim = self.phase(Phase::Shim, shim).await;
        // It comes to its end whatever became of the shim: nothing is made while it is taken down.
        let asked = asked.await;
        let (asked, shim) = (asked?, shim?);
        let pause = self.phase(Phase::Namespaces, self.pause_started(&shim, asked));
        // Nobody needs them yet.
        let files = async {
            let made = files::make(&run_dir, &config, &hostname, labels.as_ref());
            point!("run-pod.files-written");
            made
        };
        let files = self.phase(Phase::PodFiles, files);
        let (welcome, started, files) = tokio::join!(shim.welcome(greeting), pause, files);
        let (welcome, (started, fds), ()) = (welcome?, started?, files?);
        point!("run-pod.pause-started");
        self.phase(Phase::Network, self.wire(pod, fds)).await?;
        point!("run-pod.wired");
        pod.update(|record| {
            record.pause_pid = Some(started.pause_pid);
            record.shim_pid = Some(welcome.shim_pid);
        });
        let _telling = pod.telling();
        pod.get_ready()?;
        pod.save(&self.records)?;
        point!("run-pod.ready");
        self.announce(EventKind::Created, pod.id().as_str(), pod.id());
        self.announce(EventKind::Started, pod.id().as_str(), pod.id());
        Ok(())
    }

    /// What the shim has answered that was asked for pause. What comes with it is the pod's network.
    async fn pause_started(&self, shim: &Shim, asked: Asked) -> Result<(PodStarted, Vec<OwnedFd>)> {
        let (body, mut fds) = shim.answer(asked).await?;
        let reply::Body::PodStarted(started) = body else {
            return Err(unexpected(&body));
        };
        if started.lends_mounts
            && let Some(mounts) = fds.pop()
        {
            // That of another pod may have come first, which is as good.
            let _ = self.pause_mounts.set(mounts);
        }
        Ok((started, fds))
    }

    /// Chooses what the pod alone is to have, and writes down that it has.
    fn plan_and_record(&self, pod: &Pod) -> Result<()> {
        self.choose_level(pod)?;
        // Nothing may fail between taking addresses and the record that says whose they are.
        let network = self.plan_wiring(pod)?;
        pod.update(|record| record.network = network);
        point!("run-pod.addresses-taken");
        pod.save(&self.records)?;
        point!("run-pod.recorded");
        Ok(())
    }

    fn spawn_shim(&self, pod: &Arc<Pod>, unborn: Unborn) -> Result<Arc<Shim>> {
        let shim = unborn.spawn(&self.shim_exe, &self.reaper, self.listener(pod))?;
        pod.set_shim(Some(shim.clone()));
        Ok(shim)
    }

    /// Makes the pod's cgroups in a thread, and asks the shim to start pause in them: what the kernel does for
    /// them takes as long as starting the shim, which finds what it is asked when it comes up, whatever the
    /// caller waits for.
    fn ask_for_pause(
        &self,
        pod: &Pod,
        shim: &Arc<Shim>,
        hostname: String,
        labels: Option<ContainerLabels>,
    ) -> impl Future<Output = Result<Asked>> + use<> {
        let (engine, record, shim) = (self.this(), pod.record(), shim.clone());
        self.phase_beside(Phase::PodCgroups, move || {
            let cgroup_dirs = engine.make_pod_cgroups(&record)?;
            let request = start_request(&record.config, &hostname, cgroup_dirs, labels.as_ref())?;
            // In the mount namespace that an earlier shim has made for all.
            let lent = engine.pause_mounts.get().map(slice::from_ref);
            let asked = shim.ask_now(request::Body::StartPod(request), lent.unwrap_or_default())?;
            point!("run-pod.asked");
            Ok(asked)
        })
    }

    /// Makes the pod's cgroup, and that of its pause process, whose directories it gives.
    fn make_pod_cgroups(&self, record: &PodRecord) -> Result<Vec<PathBuf>> {
        let pids = self.config().pids_limits(&record.handler).pod;
        let path = CgroupPath::parse(&record.cgroup)?;
        let cgroup = self.hierarchies.create(&path)?;
        point!("run-pod.cgroup-made");
        let mut limits = match (&record.config.cgroup_parent, &record.config.resources) {
            // The client has its own cgroup for the pod and keeps the pod's limits there.
            (Some(_), _) | (_, None) => oci_spec::runtime::LinuxResources::default(),
            (None, Some(resources)) => linux_resources(resources),
        };
        limits.set_pids(pids.map(|limit| {
            let pids = LinuxPidsBuilder::default().limit(limit).build();
            pids.expect("the only field is set")
        }));
        cgroup.apply(&limits)?;
        // Pause has a cgroup of its own, as in the unified hierarchy no process is in an inner one.
        let pause = self
            .hierarchies
            .create_idle(&path.join(record.id.as_str())?)?;
        point!("run-pod.pause-cgroup-made");
        Ok(pause)
    }
}

fn check_pod(config: &PodConfig) -> Result<()> {
    let own_network = config.security.namespaces.network != NamespaceMode::Node;
    if !own_network
        && config
            .port_mappings
            .iter()
            .any(|m| m.host_port != m.container_port)
    {
        return Err(Error::invalid(
            "port_mappings",
            "a pod on the host's network has the host's ports: host_port must equal container_port",
        ));
    }
    sysctl::of_pod(config).map(|_| ())
}

/// The pod that has a name already may be given to a client that asks for it again.
fn adoptable(holder: &Pod, asked: &Pod) -> Result<()> {
    let (holder_record, asked) = (holder.record(), asked.record());
    let same = holder_record.config == asked.config && holder_record.handler == asked.handler;
    let is_there = match holder_record.state {
        PodState::Ready => true,
        PodState::Starting => !holder.making.finished(),
        PodState::NotReady => false,
    };
    if same && is_there {
        return Ok(());
    }
    let metadata = &asked.config.metadata;
    let what = format!(
        "pod {}/{} (uid {}, attempt {})",
        metadata.namespace, metadata.name, metadata.uid, metadata.attempt
    );
    Err(Error::AlreadyExists {
        what,
        id: holder.id().to_string(),
    })
}

/// What the containers see as their host's name.
pub(crate) fn hostname(config: &PodConfig) -> Result<String> {
    let own = config.security.namespaces.network != NamespaceMode::Node;
    match (config.hostname.as_str(), own) {
        ("", true) => Ok(config.metadata.name.chars().take(63).collect()),
        ("", false) => host::hostname(),
        (name, _) => Ok(name.to_owned()),
    }
}

fn start_request(
    config: &PodConfig,
    hostname: &str,
    cgroup_dirs: Vec<PathBuf>,
    labels: Option<&ContainerLabels>,
) -> Result<StartPod> {
    let (process_label, file_label) = match labels {
        Some(ContainerLabels { process, files }) => (process.as_ref(), Some(files)),
        None => (None, None),
    };
    let text = |label: Option<&SelinuxContext>| label.map(|l| l.to_string()).unwrap_or_default();
    let modes = &config.security.namespaces;
    let own_network = modes.network != NamespaceMode::Node;
    let own_ipc = modes.ipc != NamespaceMode::Node;
    let user = modes.user.as_ref();
    Ok(StartPod {
        hostname: if own_network {
            hostname.to_owned()
        } else {
            String::new()
        },
        new_network: own_network,
        new_ipc: own_ipc,
        new_uts: own_network,
        new_pid: modes.pid != NamespaceMode::Node,
        uid_map: user.map(|u| id_map(u.uids)).into_iter().collect(),
        gid_map: user.map(|u| id_map(u.gids)).into_iter().collect(),
        sysctls: sysctl::of_pod(config)?.into_iter().collect(),
        shm_size_bytes: if own_ipc { SHM_SIZE_BYTES } else { 0 },
        cgroup_dirs: cgroup_dirs
            .iter()
            .map(|d| d.display().to_string())
            .collect(),
        oom_score_adj: PAUSE_OOM_SCORE_ADJ,
        process_label: text(process_label),
        file_label: text(file_label),
    })
}

fn id_map(mapping: IdMapping) -> IdMap {
    IdMap {
        container_id: mapping.container_id,
        host_id: mapping.host_id,
        length: mapping.length,
    }
}
