//! The images that are here and what they are called. Values only: every change makes a new catalogue,
//! so that lists and look-ups never wait.

use crate::content::Indexed;
use crate::digest::is_lower_hex;
use crate::image::RawConfig;
use crate::manifest::{Descriptor, Manifest};
use crate::store::layer_keys;
use crate::{Digest, Error, Image, ImageId, Reference, Settings};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The shortest beginning of an id that is taken for one.
const MIN_PREFIX_LEN: usize = 3;

/// All images by their ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalogue {
    entries: BTreeMap<ImageId, Arc<Entry>>,
}

/// An image with what the store has to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) image: Arc<Image>,
    pub(crate) manifest: Descriptor,
    /// Everything that the manifest names, and itself.
    pub(crate) blobs: Vec<Digest>,
    /// Base first.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) has_fixup: bool,
    pub(crate) unsynced_since_boot: Option<String>,
}

impl Entry {
    /// Puts together what the manifest and the configuration say.
    pub(crate) fn new(
        indexed: Indexed,
        manifest: &Manifest,
        config: RawConfig,
        settings: &Settings,
    ) -> Self {
        let layers = manifest.layers.iter().map(|layer| &layer.digest);
        let blobs = [&indexed.manifest.digest, &manifest.config.digest]
            .into_iter()
            .chain(layers);
        let blobs = blobs.cloned().collect();
        let diff_ids = config.diff_ids();
        let image = Image {
            id: ImageId::new(manifest.config.digest.clone()),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: manifest
                .size_bytes()
                .unwrap_or(u64::MAX)
                .saturating_add(indexed.manifest.size_bytes),
            pinned: false,
            annotations: manifest.annotations.clone(),
            config: config.into_config(),
        };
        Self {
            image: Arc::new(named(image, indexed.names, settings)),
            manifest: indexed.manifest,
            blobs,
            diff_ids,
            has_fixup: indexed.has_fixup,
            unsynced_since_boot: indexed.unsynced_since_boot,
        }
    }

    /// The layers that a container of the image is made on, the lowest first.
    pub(crate) fn layer_keys(&self) -> Vec<Digest> {
        layer_keys(&self.diff_ids, self.has_fixup)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.image.tags.iter().chain(&self.image.digests)
    }

    /// The same image with these names and no others.
    pub(crate) fn with_names(&self, names: Vec<String>, settings: &Settings) -> Self {
        Self {
            image: Arc::new(named((*self.image).clone(), names, settings)),
            ..self.clone()
        }
    }

    pub(crate) fn indexed(&self) -> Indexed {
        Indexed {
            manifest: self.manifest.clone(),
            names: self.names().cloned().collect(),
            unsynced_since_boot: self.unsynced_since_boot.clone(),
            has_fixup: self.has_fixup,
        }
    }
}

/// The image with these names and no others.
fn named(image: Image, mut names: Vec<String>, settings: &Settings) -> Image {
    names.sort();
    names.dedup();
    let pinned = names.iter().any(|name| settings.is_pinned(name));
    let (digests, tags) = names.into_iter().partition(|name| name.contains('@'));
    Image {
        tags,
        digests,
        pinned,
        ..image
    }
}

impl Catalogue {
    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.entries
            .values()
            .map(|entry| entry.image.clone())
            .collect()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    pub(crate) fn get(&self, id: &ImageId) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// By id, reference with a tag or a digest, or the beginning of an id, tried in this order.
    pub(crate) fn find(&self, name: &str) -> Result<Option<&Arc<Entry>>, Error> {
        if let Some(entry) = name.parse().ok().and_then(|id| self.get(&id)) {
            return Ok(Some(entry));
        }
        let reference = name.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(entry) = self.called(&reference.to_string())
        {
            return Ok(Some(entry));
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.len() >= MIN_PREFIX_LEN && prefix.len() <= 64 && is_lower_hex(prefix) {
            return self.beginning_with(prefix);
        }
        reference.map(|_| None)
    }

    /// The image with exactly this complete reference.
    pub(crate) fn called(&self, reference: &str) -> Option<&Arc<Entry>> {
        self.entries
            .values()
            .find(|entry| entry.names().any(|name| name == reference))
    }

    fn beginning_with(&self, prefix: &str) -> Result<Option<&Arc<Entry>>, Error> {
        let mut found = self
            .entries
            .values()
            .filter(|entry| entry.image.id.digest().hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::Ambiguous {
                prefix: prefix.to_owned(),
            }),
            (entry, _) => Ok(entry),
        }
    }

    /// With this entry. If the image is here already it only gets the new names. Names are taken away
    /// from other images.
    pub(crate) fn with(&self, entry: Entry, settings: &Settings) -> Self {
        let names: HashSet<&String> = entry.names().collect();
        let mut entries: BTreeMap<_, _> = self
            .entries
            .iter()
            .map(|(id, known)| {
                if !known.names().any(|name| names.contains(name)) {
                    return (id.clone(), known.clone());
                }
                let kept = known
                    .names()
                    .filter(|name| !names.contains(name))
                    .cloned()
                    .collect();
                (id.clone(), Arc::new(known.with_names(kept, settings)))
            })
            .collect();
        let merged = match entries.get(&entry.image.id) {
            Some(known) => {
                let all = known.names().chain(entry.names()).cloned().collect();
                let unsynced = entry.unsynced_since_boot.clone();
                Entry {
                    // Something of it may have come again.
                    unsynced_since_boot: unsynced.or_else(|| known.unsynced_since_boot.clone()),
                    ..known.with_names(all, settings)
                }
            }
            None => entry.clone(),
        };
        entries.insert(entry.image.id.clone(), Arc::new(merged));
        Self { entries }
    }

    /// With those images pinned that the settings say.
    pub(crate) fn pinned_by(&self, settings: &Settings) -> Self {
        let pinned = |entry: &Arc<Entry>| {
            let names = entry.names().cloned().collect();
            Arc::new(entry.with_names(names, settings))
        };
        let entries = self.entries.iter();
        Self {
            entries: entries
                .map(|(id, entry)| (id.clone(), pinned(entry)))
                .collect(),
        }
    }

    /// Without a name; its image has what others it has.
    pub(crate) fn without_name(&self, name: &str, settings: &Settings) -> Self {
        let mut entries = self.entries.clone();
        for entry in entries.values_mut() {
            if entry.names().any(|known| known == name) {
                let kept = entry.names().filter(|known| *known != name);
                *entry = Arc::new(entry.with_names(kept.cloned().collect(), settings));
            }
        }
        Self { entries }
    }

    pub(crate) fn without(&self, id: &ImageId) -> Self {
        let mut entries = self.entries.clone();
        entries.remove(id);
        Self { entries }
    }

    /// With these images known to be on disk.
    pub(crate) fn with_synced(&self, ids: &[ImageId]) -> Self {
        let mut entries = self.entries.clone();
        for id in ids {
            if let Some(entry) = entries.get_mut(id) {
                *entry = Arc::new(Entry {
                    unsynced_since_boot: None,
                    ..(**entry).clone()
                });
            }
        }
        Self { entries }
    }

    /// The images that may not be on disk yet.
    pub(crate) fn unsynced(&self) -> Vec<ImageId> {
        let is_unsynced = |entry: &&Arc<Entry>| entry.unsynced_since_boot.is_some();
        self.entries
            .values()
            .filter(is_unsynced)
            .map(|entry| entry.image.id.clone())
            .collect()
    }

    pub(crate) fn indexed(&self) -> Vec<Indexed> {
        self.entries.values().map(|entry| entry.indexed()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &str, names: &[&str]) -> Entry {
        let digest = Digest::of(content.as_bytes());
        let manifest = format!(
            r#"{{"config":{{"digest":"{digest}","size":1}},"layers":[
            {{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":10}}]}}"#
        );
        let document = crate::manifest::Document::parse(manifest.as_bytes(), "", "it").unwrap();
        let crate::manifest::Document::Manifest(manifest) = document else {
            panic!()
        };
        let indexed = Indexed {
            manifest: Descriptor {
                size_bytes: 100,
                ..manifest.config.clone()
            },
            names: names.iter().map(|&name| name.to_owned()).collect(),
            unsynced_since_boot: Some("boot".into()),
            has_fixup: false,
        };
        Entry::new(
            indexed,
            &manifest,
            RawConfig::parse(b"{}", "it").unwrap(),
            &Settings::default(),
        )
    }

    fn catalogue(entries: &[Entry]) -> Catalogue {
        let add = |catalogue: Catalogue, entry: &Entry| {
            catalogue.with(entry.clone(), &Settings::default())
        };
        entries.iter().fold(Catalogue::default(), add)
    }

    const TAG: &str = "docker.io/library/busybox:latest";

    #[test]
    fn an_image_is_found_by_everything_that_names_it() {
        let digest = Digest::of(b"index");
        let by_digest = format!("docker.io/library/busybox@{digest}");
        let image = entry("a", &[TAG, &by_digest]);
        let other = entry("b", &["r.example/other:1"]);
        let catalogue = catalogue(&[image.clone(), other]);
        let id = image.image.id.to_string();
        let hex = image.image.id.digest().hex();
        for name in [
            "busybox",
            "docker.io/busybox:latest",
            &id,
            hex,
            &hex[..12],
            &id[..15],
            &by_digest,
            TAG,
        ] {
            let found = catalogue
                .find(name)
                .unwrap()
                .map(|entry| entry.image.id.clone());
            assert_eq!(found.as_ref(), Some(&image.image.id), "{name}");
        }
        for absent in [
            "busybox:1",
            "r.example/busybox",
            "abcabcabc",
            &Digest::of(b"x").to_string(),
        ] {
            assert_eq!(catalogue.find(absent).unwrap(), None, "{absent}");
        }
        assert!(matches!(
            catalogue.find("no such name"),
            Err(Error::InvalidReference { .. })
        ));
        assert_eq!(image.image.size_bytes, 111);
    }

    #[test]
    fn the_beginning_of_several_ids_is_ambiguous() {
        // More images than there are beginnings of three digits: some begin alike.
        let images: Vec<_> = (0..4097)
            .map(|n| Arc::new(entry(&n.to_string(), &[])))
            .collect();
        let mut catalogue = Catalogue::default();
        let mut by_prefix: BTreeMap<String, usize> = BTreeMap::new();
        for image in images {
            *by_prefix
                .entry(image.image.id.digest().hex()[..3].to_owned())
                .or_default() += 1;
            catalogue.entries.insert(image.image.id.clone(), image);
        }
        for (prefix, count) in by_prefix {
            match catalogue.find(&prefix) {
                Ok(Some(_)) => assert_eq!(count, 1, "{prefix}"),
                Err(Error::Ambiguous { .. }) => assert!(count > 1, "{prefix}"),
                other => panic!("{prefix}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_name_belongs_to_one_image() {
        let old = entry("old", &[TAG, "r.example/a:1"]);
        let new = entry("new", &[TAG]);
        let catalogue = catalogue(&[old.clone(), new.clone()]);
        assert_eq!(
            catalogue.get(&old.image.id).unwrap().image.tags,
            ["r.example/a:1"]
        );
        assert_eq!(catalogue.get(&new.image.id).unwrap().image.tags, [TAG]);
        assert_eq!(catalogue.list().len(), 2);
    }

    #[test]
    fn an_image_that_comes_again_gets_its_new_names_too() {
        let catalogue = catalogue(&[
            entry("a", &["r.example/a:1"]),
            entry("a", &["r.example/a:2"]),
        ]);
        assert_eq!(catalogue.list()[0].tags, ["r.example/a:1", "r.example/a:2"]);
        let id = catalogue.unsynced().pop().unwrap();
        assert!(
            catalogue
                .with_synced(std::slice::from_ref(&id))
                .unsynced()
                .is_empty()
        );
        assert!(catalogue.without(&id).list().is_empty());
    }
}
