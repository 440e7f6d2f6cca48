//! What has to hold of a node, and in its end.

use super::Node;
use crate::audit;
use crate::leftovers;
use crate::reboot;
use crate::wait::until;
use anyhow::{Context, Result};
use crisp_cri_api::v1::ListImagesRequest;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

impl Node {
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
