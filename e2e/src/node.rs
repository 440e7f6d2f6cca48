//! A machine with a daemon on it, or what comes closest: a daemon that shares nothing with others.

use crate::audit;
use crate::catalog::BUSYBOX;
use crate::daemon::{Daemon, oci_handlers};
use crate::disk::mount_with_quotas;
use crate::kernel::Process;
use crate::leftovers;
use crate::pod::{Pod, pod_config};
use crate::reboot;
use crate::registry::Registry;
use crate::slot::Slot;
use crate::tools;
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::image_service_client::ImageServiceClient;
use crisp_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use crisp_cri_api::v1::*;
use nix::mount::{MsFlags, mount};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use toml::{Table, Value};
use tonic::Status;
use tonic::transport::Channel;

/// A running daemon. All it made is removed when this is dropped, whatever state it is in.
#[derive(Debug)]
pub struct Node {
    daemon: Daemon,
    channel: Channel,
    files_before: BTreeSet<PathBuf>,
    mounts_before: Vec<PathBuf>,
    finished: AtomicBool,
    // Sweeps when dropped: after the daemon.
    slot: Slot,
}

impl Node {
    /// A daemon that has the busybox image already.
    ///
    /// # Errors
    /// It does not come up, or cannot pull.
    pub async fn start() -> Result<Self> {
        Self::start_with(|_| ()).await
    }

    /// The same, with settings of the daemon changed.
    ///
    /// # Errors
    /// It does not come up, or cannot pull.
    pub async fn start_with(edit: impl FnOnce(&mut Table)) -> Result<Self> {
        let node = Self::start_empty(edit).await?;
        node.pull(BUSYBOX).await?;
        Ok(node)
    }

    /// A daemon that has the busybox image, and a file system of so many MiB for all that it keeps; with
    /// settings changed.
    ///
    /// # Errors
    /// It does not come up, or cannot pull.
    ///
    /// # Panics
    /// Without root.
    pub async fn start_on_small_disk(size_mib: u32, edit: impl FnOnce(&mut Table)) -> Result<Self> {
        Self::start_with(|config| {
            edit(config);
            let root = config["root_dir"].as_str().expect("each node has its own");
            fs::create_dir_all(root).expect("the slot can be written");
            let (none, size) = (MsFlags::empty(), format!("size={size_mib}m"));
            mount(Some("e2e"), root, Some("tmpfs"), none, Some(size.as_str()))
                .expect("root can mount");
        })
        .await
    }

    /// A daemon that has the busybox image, and an ext4 of so many MiB for all that it keeps, with quotas of
    /// projects in force.
    ///
    /// # Errors
    /// The kernel has no quotas; the daemon does not come up, or cannot pull.
    ///
    /// # Panics
    /// Without root.
    pub async fn start_on_disk_with_quotas(
        size_mib: u32,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let mut mounted = Ok(());
        let node = Self::start_with(|config| {
            let root = config["root_dir"].as_str().expect("each node has its own");
            mounted = mount_with_quotas(Path::new(root), size_mib);
            edit(config);
        })
        .await?;
        mounted.map(|()| node)
    }

    /// A daemon without any image.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_empty(edit: impl FnOnce(&mut Table)) -> Result<Self> {
        let program = tools::program("dist/crisp");
        Self::start_program(program, Slot::take(), |config| {
            if !default_handler().is_empty() {
                config.insert("handlers".to_owned(), oci_handlers().into());
            }
            edit(config);
        })
        .await
    }

    /// Any build of the daemon, without any image, but with addresses for thousands of pods.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_wide(program: PathBuf) -> Result<Self> {
        let slot = Slot::take();
        let cidrs = slot.wide_cidrs().map(Value::from).to_vec();
        Self::start_program(program, slot, |config| {
            config["network"]["pod_cidrs"] = cidrs.into();
        })
        .await
    }

    /// A daemon without any image, on a machine that was made for it, with settings changed.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_on(slot: Slot, edit: impl FnOnce(&mut Table)) -> Result<Self> {
        Self::start_program(tools::program("dist/crisp"), slot, edit).await
    }

    pub(crate) async fn start_program(
        program: PathBuf,
        slot: Slot,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let daemon = Daemon::configure(program, &slot, Registry::shared(), edit)?;
        let channel = daemon.start(&slot).await?;
        Ok(Self {
            daemon,
            channel,
            files_before: leftovers::files(slot.dir()),
            mounts_before: leftovers::mounts(&slot),
            finished: AtomicBool::new(false),
            slot,
        })
    }

    /// The socket that serves the CRI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.daemon.socket()
    }

    /// No other node on this machine has it at the same time.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.slot.number()
    }

    /// The name of the bridge that pods are wired to.
    #[must_use]
    pub fn bridge(&self) -> String {
        self.slot.bridge()
    }

    /// The cgroup that pods are below, absolute in every hierarchy.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        self.slot.cgroup()
    }

    /// A program on the machine that the daemon is on: in its network namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.slot.command(program)
    }

    /// Where the log directories of pods are. The kubelet's, so no part of the audit.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// A directory for files of the test itself.
    ///
    /// # Errors
    /// The disk is full.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.dir().join("scratch");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Where the daemon keeps images and records.
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// The file that the daemon is configured by.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.daemon.config_path()
    }

    /// Where it looks for how registries are reached.
    #[must_use]
    pub fn certs_dir(&self) -> PathBuf {
        self.dir().join("certs.d")
    }

    /// What the daemon says.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.daemon.log_path()
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Where the daemon keeps what belongs to running pods.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// Where the network namespaces of pods are shown.
    #[must_use]
    pub fn netns_dir(&self) -> PathBuf {
        self.dir().join("netns")
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn dir(&self) -> &Path {
        self.slot.dir()
    }

    /// What is mounted below its directory, or on it, whatever the daemon does.
    pub(crate) fn mounts_before(&self) -> &[PathBuf] {
        &self.mounts_before
    }

    /// The service for pods and containers.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        crisp_cri_api::runtime_client(self.channel.clone())
    }

    /// The service for images.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        crisp_cri_api::image_client(self.channel.clone())
    }

    /// Pulls an image; the answer is its id.
    ///
    /// # Errors
    /// PullImage's.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(image_spec(image)),
            ..PullImageRequest::default()
        };
        Ok(self
            .images()
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }

    /// What the daemon says about an image; nothing when it has none of that name.
    ///
    /// # Errors
    /// ImageStatus's.
    pub async fn image(&self, image: &str) -> Result<Option<Image>, Status> {
        let request = ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        Ok(self
            .images()
            .image_status(request)
            .await?
            .into_inner()
            .image)
    }

    /// # Errors
    /// RemoveImage's.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images().remove_image(request).await.map(drop)
    }

    /// The file of a pod's record.
    #[must_use]
    pub fn pod_record(&self, pod: &str) -> PathBuf {
        self.root_dir().join("pods").join(pod).join("pod.json")
    }

    /// The file of a container's record.
    #[must_use]
    pub fn container_record(&self, pod: &str, container: &str) -> PathBuf {
        let containers = self.root_dir().join("pods").join(pod).join("containers");
        containers.join(format!("{container}.json"))
    }

    /// Starts a pod. Its configuration is a usual one, as `edit` changes it.
    ///
    /// # Errors
    /// RunPodSandbox's.
    pub async fn run_pod(
        &self,
        name: &str,
        edit: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod<'_>, Status> {
        self.run_pod_with_handler(name, &default_handler(), edit)
            .await
    }

    /// The same, by a runtime handler.
    ///
    /// # Errors
    /// RunPodSandbox's.
    pub async fn run_pod_with_handler(
        &self,
        name: &str,
        runtime_handler: &str,
        edit: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod<'_>, Status> {
        let mut config = self.pod_config(name);
        edit(&mut config);
        // As the kubelet does.
        fs::create_dir_all(&config.log_directory)?;
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: runtime_handler.to_owned(),
        };
        let id = self
            .runtime()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        Ok(Pod::new(self, id, config))
    }

    /// As the kubelet sends it for a pod without wishes.
    #[must_use]
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        pod_config(name, &self.log_dir(), &self.cgroup_parent())
    }

    /// All pods there are.
    ///
    /// # Errors
    /// ListPodSandbox's.
    pub async fn pods(&self) -> Result<Vec<PodSandbox>, Status> {
        let answer = self
            .runtime()
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await?;
        Ok(answer.into_inner().items)
    }

    /// All containers there are.
    ///
    /// # Errors
    /// ListContainers's.
    pub async fn containers(&self) -> Result<Vec<crisp_cri_api::v1::Container>, Status> {
        let answer = self
            .runtime()
            .list_containers(ListContainersRequest::default())
            .await?;
        Ok(answer.into_inner().containers)
    }

    /// The first process of a running container.
    ///
    /// # Errors
    /// ContainerStatus's; or it does not run.
    pub async fn process_of(&self, container_id: &str) -> Result<Process> {
        let request = ContainerStatusRequest {
            container_id: container_id.to_owned(),
            verbose: true,
        };
        let answer = self.runtime().container_status(request).await?.into_inner();
        let info: serde_json::Value =
            serde_json::from_str(answer.info.get("info").context("no verbose info")?)?;
        let pid = info["pid"]
            .as_i64()
            .with_context(|| format!("no pid in {info}"))?;
        ensure!(pid > 0, "no process: {info}");
        Ok(Process(i32::try_from(pid)?))
    }

    /// The daemon's process id; none while it is killed.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Kills the daemon as the kernel's OOM killer would.
    ///
    /// # Errors
    /// It had ended already.
    pub fn kill(&self) -> Result<()> {
        self.daemon.kill()
    }

    /// Has the daemon end by itself, as an administrator does.
    ///
    /// # Errors
    /// It had ended already, or does not.
    pub async fn terminate(&self) -> Result<()> {
        self.daemon.terminate().await
    }

    /// Starts the daemon again after it was ended, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&self) -> Result<()> {
        self.daemon.start(&self.slot).await.map(drop)
    }

    /// Changes the configuration file and has the daemon read it again; the answer is what it logs
    /// about that.
    ///
    /// # Errors
    /// It does not run, or logs nothing.
    pub async fn reload(&self, edit: impl FnOnce(&mut Table)) -> Result<String> {
        let mut config: Table = fs::read_to_string(self.config_path())?.parse()?;
        edit(&mut config);
        self.reload_text(&config.to_string()).await
    }

    /// The same with whatever text as the file.
    ///
    /// # Errors
    /// It does not run, or logs nothing.
    pub async fn reload_text(&self, config: &str) -> Result<String> {
        fs::write(self.config_path(), config)?;
        let before = self.daemon.log().len();
        self.daemon.hang_up()?;
        until("the configuration is read again", async || {
            let log = self.daemon.log().split_off(before);
            let ends = ["was read again", "the configuration stays as it was"];
            ends.iter().any(|end| log.contains(end)).then_some(log)
        })
        .await
    }

    /// Stops all pods and removes them.
    ///
    /// # Errors
    /// StopPodSandbox's or RemovePodSandbox's.
    pub async fn remove_pods(&self) -> Result<()> {
        for pod in self.pods().await? {
            let pod_sandbox_id = pod.id;
            let stop = StopPodSandboxRequest {
                pod_sandbox_id: pod_sandbox_id.clone(),
            };
            self.runtime()
                .stop_pod_sandbox(stop)
                .await
                .context("StopPodSandbox")?;
            let remove = RemovePodSandboxRequest { pod_sandbox_id };
            self.runtime()
                .remove_pod_sandbox(remove)
                .await
                .context("RemovePodSandbox")?;
        }
        Ok(())
    }

    /// Checks that the kernel and the disk have what the daemon's records say, then removes all pods and
    /// images, and checks that nothing of them is left.
    ///
    /// # Errors
    /// Something is missing, unrecorded or left; the message lists it.
    pub async fn finish(self) -> Result<()> {
        self.audit_records().await?;
        self.clear().await
    }

    /// Removes all, and checks that nothing is left, on a node that others have too; nothing more may be
    /// done on it.
    ///
    /// # Errors
    /// Something is left; the message lists it.
    pub async fn clear(&self) -> Result<()> {
        self.remove_pods().await?;
        for image in self
            .images()
            .list_images(ListImagesRequest::default())
            .await?
            .into_inner()
            .images
        {
            self.remove_image(&image.id).await.context("RemoveImage")?;
        }
        self.audit().await?;
        self.finished.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that processes, cgroups, mounts, links, addresses, host ports, files, layers and descriptors
    /// are those that the daemon's records speak of, all of them and no others. What is done behind an
    /// answer gets a while.
    ///
    /// # Errors
    /// The message lists what is missing or unrecorded.
    pub async fn audit_records(&self) -> Result<()> {
        self.audit_records_except(&[]).await
    }

    /// The same but for what has one of these ids: a request about it did not come to its end.
    ///
    /// # Errors
    /// The message lists what is missing or unrecorded.
    pub async fn audit_records_except(&self, unsettled: &[String]) -> Result<()> {
        let is_settled = |line: &String| !unsettled.iter().any(|id| line.contains(id));
        let differences = || {
            let mut all = self.differences();
            all.retain(is_settled);
            all
        };
        let same = until("all is as the records say", async || {
            differences().is_empty().then_some(())
        })
        .await;
        same.with_context(|| differences().join("\n"))
    }

    /// How all that differs from the records at this moment, a line for each: what is `missing` and what is
    /// `unrecorded`.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        audit::differences(&self.slot, self.daemon_pid())
    }

    /// Removes everything without a look at it, and without the daemon's log being shown.
    pub fn abandon(self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    /// Checks that there is nothing now that was not there when the daemon had started. What the
    /// kernel takes away behind a removal gets a while to go.
    ///
    /// # Errors
    /// Something is left; the message lists it.
    pub async fn audit(&self) -> Result<()> {
        let clean = until("nothing is left", async || {
            self.leftovers().is_empty().then_some(())
        })
        .await;
        clean.with_context(|| format!("left behind:\n{}", self.leftovers().join("\n")))
    }

    fn leftovers(&self) -> Vec<String> {
        let own = [
            self.log_dir(),
            self.dir().join("scratch"),
            self.certs_dir(),
            self.daemon.log_path(),
            self.daemon.crash_dir(),
            self.dir().join(reboot::BOOT_ID),
            // Written with the first image; it lists none in the end.
            self.root_dir().join("images/index.json"),
            // The administrator's.
            self.dir().join("cni/net.d"),
            self.dir().join("cni/bin"),
            // Where host-local looks for the next address.
            self.cni_data_dir().join("lock"),
            self.cni_data_dir().join("last_reserved_ip."),
            // What the kubelet said last.
            self.root_dir().join("pod-cidrs.json"),
        ];
        let mut found = leftovers::find(&self.slot, self.daemon_pid(), &self.files_before);
        found.retain(|line| {
            let is = |kind: &str, path: &PathBuf| {
                line.starts_with(&format!("{kind} {}", path.display()))
            };
            !own.iter().any(|path| is("file", path))
                && !self
                    .mounts_before
                    .iter()
                    .any(|path| *line == format!("mount {}", path.display()))
        });
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            eprintln!("the daemon's log:\n{}", self.daemon.log());
        }
    }
}

/// The handler that runs the pods of tests that name none: to see that they pass with any.
fn default_handler() -> String {
    std::env::var("CRISP_E2E_HANDLER").unwrap_or_default()
}

/// An image by a name.
#[must_use]
pub fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}
