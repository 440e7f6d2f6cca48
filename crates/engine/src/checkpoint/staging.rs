//! Where a checkpoint is put together, and what is left when that comes to no end.
//!
//! ```text
//! <root_dir>/checkpoints/<container id>/record.json    written first; where the archive is written
//! <root_dir>/checkpoints/<container id>/files/         what the archive has
//! <root_dir>/checkpoints/<container id>/files/checkpoint/    criu's images
//! ```
//! The directory is the record of a checkpoint: all that is made for one is in it, or named by it.

use super::TIMEOUT_MAX;
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result, chain};
use crate::files::{make_private_dir, remove_dir, remove_file};
use crate::record::{current_version, read, write};
use crisp_crash::point;
use crisp_model::ContainerId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A variable of what dumps a container; its value is the container's id.
pub(super) const MARKER: &str = "CRISP_CHECKPOINT";

/// [`MARKER`] with its value.
pub(super) fn marker(id: &ContainerId) -> String {
    format!("{MARKER}={id}")
}

const RECORD: &str = "record.json";

/// [`RECORD`].
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The archive while it is being written.
    partial: PathBuf,
    /// When the container is to go on, by the host's clock.
    #[serde(default)]
    deadline: Option<SystemTime>,
}

impl Record {
    /// How long what dumps the container may still take.
    fn patience(&self) -> Duration {
        let left = self
            .deadline
            .and_then(|it| it.duration_since(SystemTime::now()).ok());
        // The clock may have been set back.
        left.unwrap_or_default().min(TIMEOUT_MAX) + crisp_criu::PATIENCE
    }
}

/// The directory of one checkpoint, and its archive until that has its name. Both go with this.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    partial: PathBuf,
}

impl Staging {
    /// Begins a checkpoint of a container into `location`.
    pub(super) fn begin(
        root_dir: &Path,
        id: &ContainerId,
        location: &Path,
        deadline: Instant,
    ) -> Result<Self> {
        let staging = Self {
            partial: location.with_file_name(format!(".{id}.checkpoint")),
            dir: root_dir.join("checkpoints").join(id.as_str()),
        };
        remove_dir(&staging.dir)?;
        make_private_dir(&staging.dir)?;
        let record = Record {
            version: current_version(),
            partial: staging.partial.clone(),
            deadline: Some(SystemTime::now() + deadline.saturating_duration_since(Instant::now())),
        };
        write(&staging.dir.join(RECORD), &record)?;
        point!("checkpoint.recorded");
        make_private_dir(&staging.images())?;
        Ok(staging)
    }

    pub(super) fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.files().join("checkpoint")
    }

    /// For another attempt.
    pub(super) fn empty_images(&self) -> Result<()> {
        remove_dir(&self.images())?;
        make_private_dir(&self.images())
    }

    /// The archive, for its owner only: it has the memory of processes.
    pub(super) fn create_archive(&self) -> Result<File> {
        remove_file(&self.partial)?;
        let mut options = OpenOptions::new();
        let created = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.partial);
        let created = created.map_err(Error::io("create", &self.partial))?;
        point!("checkpoint.archive-created");
        Ok(created)
    }

    /// Gives the archive, which is written and synced, its name.
    pub(super) fn publish(&self, location: &Path) -> Result<()> {
        fs::rename(&self.partial, location)
            .map_err(Error::io("rename the archive to", location))?;
        point!("checkpoint.published");
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        remove_file(&self.partial)?;
        remove_dir(&self.dir)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(error = chain(&error), "a part of a checkpoint is left");
        }
    }
}

/// A checkpoint that an earlier daemon has left.
struct LeftBehind {
    container: ContainerId,
    record: Record,
    staging: Staging,
}

fn left_behind(root_dir: &Path) -> Result<Vec<LeftBehind>> {
    let dir = root_dir.join("checkpoints");
    make_private_dir(&dir)?;
    let entries = fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (dir, name) = (entry.path(), entry.file_name());
        let id = name.to_str().and_then(|name| name.parse().ok());
        match (id, read::<Record>(&dir.join(RECORD))?) {
            (Some(container), Some(record)) => {
                let partial = record.partial.clone();
                found.push(LeftBehind {
                    container,
                    record,
                    staging: Staging { dir, partial },
                });
            }
            // Nothing was done before there was a record.
            _ => remove_dir(&dir)?,
        }
    }
    Ok(found)
}

impl Engine {
    /// Removes what is left of checkpoints that an earlier daemon began. What dumps a container for it goes
    /// on, and is let come to its end: it finds nobody to write for, and lets the container go on. It is
    /// not waited for here.
    pub(crate) async fn forget_checkpoints(&self) -> Result<()> {
        let root_dir = self.config().root_dir.clone();
        for left in blocking(move || left_behind(&root_dir)).await? {
            let (engine, container) = (
                self.this(),
                self.store.container(left.container.as_str()).ok(),
            );
            let container = container.map(|container| (container.begin_checkpoint(), container));
            tokio::spawn(async move {
                crisp_helper::outwait(&marker(&left.container), left.record.patience()).await;
                // An OCI runtime freezes a container while it stops its processes, and may have been ended then.
                if let Some((_begun, container)) = &container {
                    engine.thaw_or_tell(container).await;
                }
                let staging = left.staging;
                // It warns by itself.
                let _ = tokio::task::spawn_blocking(move || drop(staging)).await;
            });
        }
        Ok(())
    }
}
