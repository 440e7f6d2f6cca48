//! What a container mounts of images: those that its configuration asks for, and the volumes that its
//! own image declares.

use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::record::ContainerRecord;
use crisp_model::Mount;
use crisp_model::spec::{ImageMount, Volume};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Where every container has file systems of the kernel: images that declare volumes there mean another
/// runtime.
const OF_THE_KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

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

    /// Makes a directory for each volume that the image declares.
    pub(super) async fn make_volumes(&self, record: &ContainerRecord) -> Result<Vec<Volume>> {
        let mut all = Vec::new();
        let declared = declared(&record.image.volumes, &record.config.mounts);
        for (number, path) in declared.into_iter().enumerate() {
            let volume = self.images.make_volume(&record.id, number, &path);
            all.push(Volume {
                place: volume.await?,
                container_path: path,
            });
        }
        Ok(all)
    }
}

/// The volumes that are to be made: those that no mount of the configuration covers.
fn declared(volumes: &[String], mounts: &[Mount]) -> Vec<PathBuf> {
    let covered = |path: &Path| {
        mounts
            .iter()
            .any(|mount| path.starts_with(&mount.container_path))
    };
    let of_the_kernel = |path: &Path| OF_THE_KERNEL.iter().any(|dir| path.starts_with(dir));
    let mut paths: Vec<PathBuf> = volumes
        .iter()
        .map(|volume| plain(Path::new(volume)))
        // The root is the container's own anyway.
        .filter(|path| path != Path::new("/") && !covered(path) && !of_the_kernel(path))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// An absolute path without `..`, which leads nowhere above the root.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_made_where_nothing_is_mounted_and_never_above_the_root() {
        let volumes = [
            "/data",
            "/data/",
            "cache//x",
            "/../../etc/kubernetes",
            "/a/../b",
            "/",
            "",
            "/..",
            "/mounted",
            "/mounted/below",
            "/mounted-not",
            "/over/one",
            "/sys/fs/cgroup",
            "/dev/shm",
            "/x/../proc/y",
        ]
        .map(str::to_owned);
        let mounts = ["/mounted/", "/over/one/deeper"].map(|path| Mount {
            container_path: path.to_owned(),
            ..Mount::default()
        });
        let expected = [
            "/b",
            "/cache/x",
            "/data",
            "/etc/kubernetes",
            "/mounted-not",
            "/over/one",
        ];
        assert_eq!(declared(&volumes, &mounts), expected.map(PathBuf::from));
    }
}
