//! Where a checkpoint is put together, and what is left when that comes to no end.
//!
//! ```text
//! <root_dir>/checkpoints/<container id>/record.json    written first; where the archive is written
//! <root_dir>/checkpoints/<container id>/files/         what the archive has
//! <root_dir>/checkpoints/<container id>/files/checkpoint/    criu's images
//! ```
//! The directory is the record of a checkpoint: all that is made for one is in it, or named by it.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result, chain};
use crate::record::{current_version, make_private_dir, remove_dir, replace_file};
use crisp_model::ContainerId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A variable of what dumps a container; its value is the container's id.
pub(super) const MARKER: &str = "CRISP_CHECKPOINT";

const RECORD: &str = "record.json";

/// [`RECORD`].
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The archive while it is being written.
    partial: PathBuf,
}

/// The directory of one checkpoint, and its archive until that has its name. Both go with this.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    partial: PathBuf,
}

impl Staging {
    /// Begins a checkpoint of a container into `location`.
    pub(super) fn begin(root_dir: &Path, id: &ContainerId, location: &Path) -> Result<Self> {
        let dir = root_dir.join("checkpoints").join(id.as_str());
        let name = location.file_name().unwrap_or_default().to_string_lossy();
        let staging = Self {
            partial: location.with_file_name(format!(".{name}.{id}")),
            dir,
        };
        remove_dir(&staging.dir)?;
        make_private_dir(&staging.dir)?;
        let record = Record {
            version: current_version(),
            partial: staging.partial.clone(),
        };
        let text = serde_json::to_vec(&record).map_err(|e| Error::Internal(e.to_string()))?;
        replace_file(&staging.dir.join(RECORD), &text)?;
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
        created.map_err(Error::io("create", &self.partial))
    }

    /// Gives the archive, which is written and synced, its name.
    pub(super) fn publish(&self, location: &Path) -> Result<()> {
        fs::rename(&self.partial, location).map_err(Error::io("rename the archive to", location))
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

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The checkpoints that an earlier daemon has left, and the containers that they are of.
fn left_behind(root_dir: &Path) -> Result<Vec<(ContainerId, Staging)>> {
    let dir = root_dir.join("checkpoints");
    make_private_dir(&dir)?;
    let entries = fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (dir, name) = (entry.path(), entry.file_name());
        let id = name.to_str().and_then(|name| name.parse().ok());
        let text = fs::read(dir.join(RECORD)).unwrap_or_default();
        let record = serde_json::from_slice::<Record>(&text);
        match (id, record) {
            (Some(id), Ok(Record { partial, .. })) => found.push((id, Staging { dir, partial })),
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
    pub(crate) fn forget_checkpoints(&self) -> Result<()> {
        for (id, staging) in left_behind(&self.config().root_dir)? {
            let (engine, container) = (self.this(), self.store.container(id.as_str()).ok());
            let container = container.map(|container| (container.begin_checkpoint(), container));
            tokio::spawn(async move {
                crisp_helper::outwait(&format!("{MARKER}={id}"), crisp_criu::PATIENCE).await;
                if let Some((_begun, container)) = &container {
                    engine.let_go_on(container).await;
                }
                drop(staging);
            });
        }
        Ok(())
    }

    /// An OCI runtime freezes a container while it stops its processes, and may have been ended then.
    pub(super) async fn let_go_on(&self, container: &Container) {
        if let Err(error) = self.thaw(container).await {
            tracing::warn!(container = %container.id(), error = chain(&error), "a container may be frozen");
        }
    }
}
