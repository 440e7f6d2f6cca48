//! Checkpoints: a running container as an archive on disk, while it goes on.
//!
//! ```text
//! config.dump  spec.dump  status.dump  bind.mounts    what it was
//! dump.log  stats-dump                                criu's log and figures
//! checkpoint/                                         criu's images, and descriptors.json
//! rootfs-diff.tar  deleted.files                      what it has changed in its root file system
//! container.log                                       its log
//! ```
//! That is the layout of Podman, CRI-O and containerd, which checkpointctl reads.
//!
//! Under the embedded runtime nothing is frozen but by criu itself, through ptrace(2): the kernel lets the
//! container go on whatever becomes of criu and of this daemon. The files are archived while the processes
//! still stand, so that they fit the memory. Under a runtime with a command they go on when the command
//! has ended, and their files are archived a moment later.

mod archive;
mod description;
mod external;
mod process;
mod staging;

use crate::container::{Container, has_pod_shm};
use crate::engine::{Engine, blocking, detached};
use crate::error::{Error, Result, chain};
use crate::handlers::RuntimeCommand;
use crate::pod::Pod;
use crate::record::ContainerRecord;
use archive::Archive;
use crisp_crash::point;
use crisp_criu::{Connections, Dump, Error as CriuError};
use crisp_image::Bounds;
use crisp_shim_api::PodPaths;
use nix::sys::statvfs::statvfs;
use oci_spec::runtime::Spec;
use process::Process;
use staging::{MARKER, Staging};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long a checkpoint may take when its client does not say; the kubelet waits as long for an answer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// A longer time than this is cut: nothing waits for ever.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where programs usually are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A checkpoint may take all shares but one of what is free on its file system.
const SHARES: u64 = 10;

/// What an OCI runtime writes to its standard error, among criu's files.
const RUNTIME_LOG: &str = "runtime.log";

impl Engine {
    /// Writes an archive of a running container to `location`, an absolute path, and has it go on. Zero for
    /// `timeout` is a default. After the timeout the container goes on and there is no archive.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] if it does not run, ends meanwhile, is being checkpointed already, or
    /// criu is not installed; [`Error::DeadlineExceeded`]; [`Error::Internal`] with what criu says when it
    /// fails.
    pub async fn checkpoint_container(
        self: &Arc<Self>,
        id: &str,
        location: &Path,
        timeout: Duration,
    ) -> Result<()> {
        let name = location.file_name().unwrap_or_default().as_bytes();
        let ends_in_name = !name.is_empty() && location.as_os_str().as_bytes().ends_with(name);
        if !location.is_absolute() || !ends_in_name {
            return Err(not_a_location("is not an absolute path of a file"));
        }
        let container = self.running_container(id)?;
        let timeout = match timeout.is_zero() {
            true => DEFAULT_TIMEOUT,
            false => timeout.min(TIMEOUT_MAX),
        };
        let deadline = Instant::now() + timeout;
        let job = self.plan_checkpoint(&container, location, deadline, timeout)?;
        let begun = container.begin_checkpoint().ok_or_else(|| {
            Error::FailedPrecondition(format!(
                "container {} is being checkpointed already",
                container.id()
            ))
        })?;
        let engine = self.clone();
        let work = detached(async move {
            let _begun = begun;
            let by_command = job.runtime.is_some();
            let result = blocking(move || job.run()).await;
            if by_command && result.is_err() {
                engine.thaw_or_tell(&container).await;
            }
            result
        });
        match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(late(timeout)),
        }
    }

    fn plan_checkpoint(
        self: &Arc<Self>,
        container: &Container,
        location: &Path,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Checkpoint> {
        let criu = self.config().criu.clone();
        if criu.as_os_str().is_empty() {
            let message = "the setting `criu` of this node is empty: no checkpoints are made";
            return Err(Error::FailedPrecondition(message.to_owned()));
        }
        let (record, process) = (container.record(), Process::of(container)?);
        let pod = self.store.pod(record.pod.as_str())?;
        let runtime = pod.record().runtime;
        let mut spec = self.read_spec(&record)?;
        if runtime.is_none() && has_pod_shm(&record.config) {
            description::insert_shm(&mut spec);
        }
        Ok(Checkpoint {
            engine: self.clone(),
            pod,
            runtime,
            spec,
            process,
            record,
            criu,
            location: location.to_owned(),
            deadline,
            timeout,
        })
    }
}

fn late(timeout: Duration) -> Error {
    Error::late("the checkpoint", timeout)
}

fn not_a_location(reason: &str) -> Error {
    Error::invalid("location", reason)
}

/// A checkpoint to be made. All of it blocks.
struct Checkpoint {
    engine: Arc<Engine>,
    pod: Arc<Pod>,
    /// None: the embedded one.
    runtime: Option<RuntimeCommand>,
    record: ContainerRecord,
    spec: Spec,
    process: Process,
    criu: PathBuf,
    location: PathBuf,
    deadline: Instant,
    /// What the deadline comes of.
    timeout: Duration,
}

impl Checkpoint {
    /// One that fails after its deadline has failed by that.
    fn run(&self) -> Result<()> {
        self.make().map_err(|error| {
            // Nobody may be left to tell.
            tracing::warn!(container = %self.record.id, error = chain(&error), "no checkpoint was made");
            self.in_time().err().unwrap_or(error)
        })
    }

    fn make(&self) -> Result<()> {
        self.check_location()?;
        self.check_installed()?;
        let root_dir = &self.engine.config().root_dir;
        let staging = Staging::begin(root_dir, &self.record.id, &self.location, self.deadline)?;
        let file = staging.create_archive()?;
        let deleted = match &self.runtime {
            None => self.dump(&staging),
            Some(runtime) => {
                let mut command = self.command(&runtime.program);
                command.args(&runtime.args);
                self.dump_by(command, &staging)?;
                self.write_changes(&staging)
            }
        }?;
        point!("checkpoint.dumped");
        let archive = self.describe(&staging, &deleted)?;
        point!("checkpoint.described");
        archive.write(file, self.deadline)?;
        point!("checkpoint.archived");
        // What it was made of may be taken away once it has ended.
        self.process.check_runs()?;
        self.in_time()?;
        staging.publish(&self.location)
    }

    fn in_time(&self) -> Result<()> {
        match Instant::now() >= self.deadline {
            true => Err(late(self.timeout)),
            false => Ok(()),
        }
    }

    fn check_location(&self) -> Result<()> {
        match fs::metadata(&self.location) {
            Ok(found) if found.is_dir() => return Err(not_a_location("is a directory")),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(not_a_location(&format!("cannot be: {error}")));
            }
            _ => {}
        }
        match self.location.parent() {
            Some(dir) if dir.is_dir() => Ok(()),
            _ => Err(not_a_location("is in a directory that does not exist")),
        }
    }

    fn check_installed(&self) -> Result<()> {
        // A runtime looks for criu by its usual name.
        let program = match self.runtime {
            None => &self.criu,
            Some(_) => Path::new("criu"),
        };
        let path = self.path();
        let mut places = path.split(':').map(|dir| Path::new(dir).join(program));
        match places.any(|place| place.is_file()) {
            true => Ok(()),
            false => Err(Error::FailedPrecondition(format!(
                "{} is not installed, which checkpoints are made by: install criu (in Debian the package \
                 criu), or name it by the setting `criu`",
                program.display()
            ))),
        }
    }

    /// By criu itself.
    fn dump(&self, staging: &Staging) -> Result<Vec<PathBuf>> {
        let (images_dir, work_dir) = (staging.images(), staging.files());
        let mut dump = Dump {
            pid: self.process.pid,
            images_dir: &images_dir,
            work_dir: &work_dir,
            external: self.external()?,
            connections: Connections::None,
        };
        let mut deleted = Vec::new();
        let mut attempt = |dump: &Dump<'_>| {
            let mut command = self.command(&self.criu);
            self.process.check_runs().map_err(Failure::Here)?;
            dump.run(&mut command, self.deadline, || {
                deleted = self.write_changes(staging).map_err(Failure::Here)?;
                self.process.check_runs().map_err(Failure::Here)
            })
        };
        let dumped = match attempt(&dump) {
            // Tried first, because what is dumped otherwise not everybody can restore.
            Err(Failure::Criu(CriuError::Connected)) => {
                dump.connections = Connections::Closed;
                staging.empty_images()?;
                attempt(&dump)
            }
            dumped => dumped,
        };
        match dumped {
            Ok(()) => Ok(deleted),
            Err(Failure::Here(error)) => Err(error),
            Err(Failure::Criu(error)) => Err(error.into()),
        }
    }

    /// By the container's own runtime, which runs criu.
    fn dump_by(&self, mut command: Command, staging: &Staging) -> Result<()> {
        let (images, work) = (staging.images(), staging.files());
        let log = work.join(RUNTIME_LOG);
        let errors = File::create(&log).map_err(Error::io("create", &log))?;
        let state = PodPaths::new(self.engine.pod_run_dir(&self.record.pod)).oci_state();
        command.arg("--root").arg(state);
        command.args(["checkpoint", "--leave-running", "--file-locks"]);
        command.arg("--image-path").arg(&images);
        command.arg("--work-path").arg(&work);
        command.arg(self.record.id.as_str());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(errors);
        let logs = [log.as_path(), &work.join(crisp_criu::DUMP_LOG)];
        self.process.check_runs()?;
        let ran = crisp_criu::run(&mut command, &logs, self.deadline);
        if ran.is_err() {
            // Its criu may go on to hold the container, and to write what is about to be removed.
            let marker = staging::marker(&self.record.id);
            Handle::current().block_on(crisp_helper::outwait(&marker, crisp_criu::PATIENCE));
        }
        ran?;
        fs::remove_file(&log).map_err(Error::io("remove", &log))
    }

    /// Where programs are looked for: first where the criu is that the configuration names.
    fn path(&self) -> String {
        match self.criu.parent() {
            Some(dir) if dir.is_absolute() => format!("{}:{PATH}", dir.display()),
            _ => PATH.to_owned(),
        }
    }

    /// A program that gets nothing of the daemon's.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", self.path());
        command.current_dir("/");
        command.env(MARKER, self.record.id.as_str());
        command
    }

    fn external(&self) -> Result<Vec<String>> {
        let path = PathBuf::from(format!("/proc/{}", self.process.pid));
        let mountinfo = path.join("mountinfo");
        let text = fs::read_to_string(&mountinfo).map_err(Error::io("read", &mountinfo))?;
        self.process.check_runs()?;
        let namespaces = external::namespaces(&self.spec, |name| {
            let metadata = fs::metadata(path.join("ns").join(name));
            metadata.ok().map(|metadata| metadata.ino())
        });
        let mounts = external::mounts(&self.spec, &text);
        Ok(namespaces.into_iter().chain(mounts).collect())
    }

    /// Archives what the container has changed in its root file system, and gives what it has deleted.
    fn write_changes(&self, staging: &Staging) -> Result<Vec<PathBuf>> {
        let mounts = self.spec.mounts().iter().flatten();
        let places = mounts.filter_map(|mount| mount.destination().strip_prefix("/").ok());
        let left_out: HashSet<_> = places.map(Path::to_owned).collect();
        let path = staging.files().join("rootfs-diff.tar");
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let bounds = Bounds {
            bytes: available(&path)? / SHARES * (SHARES - 1),
            until: self.deadline,
        };
        let images = &self.engine.images;
        let deleted = images.write_changes(&self.record.id, &left_out, file, bounds)?;
        point!("checkpoint.changes-written");
        Ok(deleted)
    }

    /// Writes what is known of the container beside what was dumped of it.
    fn describe(&self, staging: &Staging, deleted: &[PathBuf]) -> Result<Archive> {
        let runtime = self.runtime.as_ref();
        let runtime = runtime.and_then(|it| it.program.file_name());
        let runtime = runtime.map_or("crisp".into(), |name| name.to_string_lossy());
        let spec = description::spec(self.spec.clone(), &self.record, &self.pod);
        let archive = Archive::new(staging.files(), self.record.log_path.clone());
        archive.describe("config.dump", &description::config(&self.record, &runtime))?;
        archive.describe("spec.dump", &spec)?;
        archive.describe("status.dump", &description::status(&self.record))?;
        archive.describe("bind.mounts", &description::bind_mounts(&self.spec))?;
        archive.describe("deleted.files", &description::deleted(deleted))?;
        let descriptors = description::descriptors(self.process.pid);
        archive.describe("checkpoint/descriptors.json", &descriptors)?;
        Ok(archive)
    }
}

/// What the file system of a file has room for, in bytes.
fn available(path: &Path) -> Result<u64> {
    let found = statvfs(path).map_err(|errno| Error::io("measure", path)(errno.into()))?;
    Ok(found
        .blocks_available()
        .saturating_mul(found.fragment_size()))
}

/// Why a dump was not made.
enum Failure {
    Criu(CriuError),
    /// What was to be done meanwhile.
    Here(Error),
}

impl From<CriuError> for Failure {
    fn from(error: CriuError) -> Self {
        Self::Criu(error)
    }
}

impl From<CriuError> for Error {
    fn from(error: CriuError) -> Self {
        match error {
            CriuError::NotInstalled { .. } => Self::FailedPrecondition(error.to_string()),
            _ => Self::Internal(chain(&error)),
        }
    }
}
