//! What a container mounts of images.

use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::record::ContainerRecord;
use crisp_model::Mount;
use crisp_model::spec::ImageMount;
use std::sync::Arc;

impl Engine {
    /// Lends the container all images that its configuration mounts. They are kept until its snapshot
    /// is removed.
    pub(super) async fn lend_images(&self, record: &ContainerRecord) -> Result<Vec<ImageMount>> {
        let mut all = Vec::new();
        for mount in &record.config.mounts {
            if let Some(image) = &mount.image {
                all.push(self.lend_image(record, mount, &image.image).await?);
            }
        }
        Ok(all)
    }

    async fn lend_image(
        &self,
        record: &ContainerRecord,
        mount: &Mount,
        name: &str,
    ) -> Result<ImageMount> {
        let missing = || Error::NotFound {
            kind: Kind::Image,
            id: name.to_owned(),
        };
        let image = self.images.find(name)?.ok_or_else(missing)?;
        let lent = self
            .images
            .lend(&record.id, &image.id, &mount.image_sub_path);
        let places = lent.await.map_err(|error| match error {
            crisp_image::Error::NotFound { .. } => missing(),
            error => Error::ImageVolume {
                container_path: mount.container_path.clone(),
                source: Arc::new(error),
            },
        })?;
        Ok(ImageMount {
            container_path: mount.container_path.clone(),
            places,
            uid_mappings: mount.uid_mappings.clone(),
            gid_mappings: mount.gid_mappings.clone(),
        })
    }
}
