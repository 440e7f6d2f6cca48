//! An image on the node.

use super::{INFO, unix_ns};
use crisp_cri_api::{node, v1};
use crisp_image::{Image, Usage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// An image, in a list and in full.
pub(crate) fn image(image: &Image) -> v1::Image {
    let (uid, username) = user(&image.config.user);
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            image: name(image),
            annotations: image.annotations.clone().into_iter().collect(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

fn name(image: &Image) -> String {
    let name = image.tags.iter().chain(&image.digests).next();
    name.cloned().unwrap_or_else(|| image.id.to_string())
}

/// The image by digest, as a Pod's status shows it; one that came from no registry by its id.
pub(crate) fn image_reference(image: &Image) -> String {
    let digest = image.digests.first().cloned();
    digest.unwrap_or_else(|| image.id.to_string())
}

/// The user of an image's configuration, without its group: by number, else by name.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    match name.parse() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// The `info` of a verbose answer: the image's configuration as it was published. It was JSON when the
/// image was stored; should it not be any more, tools still find their key.
pub(crate) fn image_info(config: &[u8]) -> BTreeMap<String, String> {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let json = json!({ "imageSpec": config });
    [(INFO.to_owned(), json.to_string())].into()
}

/// An image that crisp's own service has stored.
pub(crate) fn stored_image(image: &Image) -> node::v1::StoredImage {
    node::v1::StoredImage {
        id: image.id.to_string(),
        names: image.tags.iter().chain(&image.digests).cloned().collect(),
    }
}

/// Where images and containers are on disk, each with its usage.
#[derive(Debug)]
pub(crate) struct DiskUsage {
    pub(crate) images: Usage,
    pub(crate) containers: Usage,
    pub(crate) same_file_system: bool,
}

/// Usage by file system. The kubelet takes two paths for two disks, and then waits for one of them to
/// fill up: one disk has one path.
pub(crate) fn image_fs_info(disk: &DiskUsage, at: SystemTime) -> v1::ImageFsInfoResponse {
    let containers_path = match disk.same_file_system {
        true => &disk.images.path,
        false => &disk.containers.path,
    };
    v1::ImageFsInfoResponse {
        image_filesystems: vec![file_system(&disk.images.path, &disk.images, at)],
        container_filesystems: vec![file_system(containers_path, &disk.containers, at)],
    }
}

fn file_system(path: &Path, usage: &Usage, at: SystemTime) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: unix_ns(at),
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: path.display().to_string(),
        }),
        used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
        inodes_used: Some(v1::UInt64Value {
            value: usage.inodes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_image::ImageConfig;

    fn sample(tags: &[&str], digests: &[&str]) -> Image {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Image {
            id: "0".repeat(64).parse().unwrap(),
            tags: owned(tags),
            digests: owned(digests),
            size_bytes: 7,
            pinned: true,
            annotations: [("key".to_owned(), "value".to_owned())].into(),
            config: ImageConfig {
                user: "33:33".to_owned(),
                ..ImageConfig::default()
            },
        }
    }

    #[test]
    fn an_image_has_one_id_and_all_its_names() {
        let told = image(&sample(&["a:1", "b:1"], &["a@sha256:00"]));
        assert_eq!(told.id, format!("sha256:{}", "0".repeat(64)));
        assert_eq!(told.repo_tags, ["a:1", "b:1"]);
        assert_eq!(told.repo_digests, ["a@sha256:00"]);
        let spec = told.spec.unwrap();
        assert_eq!(spec.image, "a:1");
        assert_eq!(spec.annotations["key"], "value");
        assert!(told.pinned && told.size == 7);
    }

    #[test]
    fn a_reference_is_by_digest_where_there_is_one() {
        assert_eq!(image_reference(&sample(&["a:1"], &["a@x"])), "a@x");
        assert!(image_reference(&sample(&["a:1"], &[])).starts_with("sha256:"));
    }

    #[test]
    fn users_are_told_by_number_or_name() {
        let number = |value| Some(v1::Int64Value { value });
        for (given, uid, name) in [
            ("", None, ""),
            ("1002", number(1002), ""),
            ("1002:users", number(1002), ""),
            ("www", None, "www"),
            ("www:www", None, "www"),
            ("0", number(0), ""),
        ] {
            assert_eq!(user(given), (uid, name.to_owned()), "{given}");
        }
    }

    #[test]
    fn a_disk_has_one_path() {
        let usage = |path: &str, bytes| Usage {
            path: path.into(),
            bytes,
            inodes: 1,
        };
        let mut disk = DiskUsage {
            images: usage("/images", 7),
            containers: usage("/containers", 9),
            same_file_system: true,
        };
        let told = |disk: &DiskUsage| {
            let info = image_fs_info(disk, SystemTime::now());
            [info.image_filesystems, info.container_filesystems].map(|usage| {
                let [usage] = usage.try_into().unwrap();
                let usage: v1::FilesystemUsage = usage;
                (
                    usage.fs_id.unwrap().mountpoint,
                    usage.used_bytes.unwrap().value,
                )
            })
        };
        let path = |path: &str, bytes| (path.to_owned(), bytes);
        assert_eq!(told(&disk), [path("/images", 7), path("/images", 9)]);
        disk.same_file_system = false;
        assert_eq!(told(&disk), [path("/images", 7), path("/containers", 9)]);
    }

    #[test]
    fn the_info_holds_the_configuration() {
        let info = image_info(br#"{"os": "linux"}"#);
        assert_eq!(info["info"], r#"{"imageSpec":{"os":"linux"}}"#);
    }
}
