//! Pulling: from a reference to an image in the store.

use crate::catalogue::Entry;
use crate::image::ImageId;
use crate::install::{Found, Source, ended, install};
use crate::manifest::{Descriptor, Document, MAX_CONFIG_BYTES, Manifest};
use crate::progress::Audience;
use crate::registry::{Fetched, Registry};
use crate::store::Store;
use crate::verify::Verifiers;
use crate::{Auth, Digest, Error, Image, Progress, Reference, Settings, Version, platform};
use bytes::Bytes;
use crisp_crash::point;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Indexes inside of indexes.
const MAX_INDEX_DEPTH: usize = 4;

/// Fetches the image that the reference means now; what is here already is not fetched again. The
/// registry is asked in any case, so that it can refuse.
pub(crate) async fn pull(
    store: &Arc<Store>,
    reference: &Reference,
    auth: Option<&Auth>,
    audience: &Audience,
) -> Result<Arc<Image>, Error> {
    audience.tell(&Progress::Resolving);
    let settings = store.settings();
    let (registry, verifiers) = open(&settings, reference, auth).await?;
    // Verifiers may have changed their mind since the image came.
    if verifiers.is_empty()
        && let Some(image) = unchanged(store, &registry, reference).await?
    {
        return Ok(image);
    }
    let top = registry.manifest().await?;
    verifiers.check(reference, &descriptor(&top)).await?;
    let names = names(reference, &top.digest);
    let (fetched, manifest) = choose(&registry, top).await?;
    let id = ImageId::new(manifest.config.digest.clone());
    if let Some(image) = add_names(store, &id, &names).await? {
        return Ok(image);
    }
    fetch(store, registry, (fetched, manifest), names, audience).await
}

/// Fetches the image of a manifest that is here already, from where it came from.
async fn fetch(
    store: &Arc<Store>,
    registry: Registry,
    (fetched, manifest): (Fetched, Manifest),
    names: Vec<String>,
    audience: &Audience,
) -> Result<Arc<Image>, Error> {
    let config_bytes = registry
        .small_blob(&manifest.config, MAX_CONFIG_BYTES)
        .await?;
    let found = found(fetched, manifest, config_bytes, names);
    point!("pull.resolved");
    let source = Source::Registry(Arc::new(registry));
    install(store, &store.settings(), source, found, audience).await
}

/// Fetches again what is missing of an image that is here, from wherever one of its names leads.
/// Nobody's credentials are known: the registry has to give it to anyone, or `hosts.toml` has some.
pub(crate) async fn fetch_again(store: &Arc<Store>, entry: &Entry) -> Result<(), Error> {
    let image = &entry.image;
    let mut outcome = Err(Error::not_found(image.id.as_str()));
    for name in image.digests.iter().chain(&image.tags) {
        outcome = fetch_from(store, entry, &name.parse()?).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn fetch_from(store: &Arc<Store>, entry: &Entry, reference: &Reference) -> Result<(), Error> {
    let settings = store.settings();
    let (registry, _) = open(&settings, reference, None).await?;
    let fetched = registry.manifest_by_digest(&entry.manifest.digest).await?;
    let what = fetched.digest.to_string();
    let Document::Manifest(manifest) = Document::parse(&fetched.bytes, &fetched.media_type, &what)?
    else {
        return Err(Error::corrupt(what, "it is not a manifest"));
    };
    let (known, nobody) = ((fetched, manifest), Audience::default());
    fetch(store, registry, known, Vec::new(), &nobody)
        .await
        .map(drop)
}

async fn open(
    settings: &Arc<Settings>,
    reference: &Reference,
    auth: Option<&Auth>,
) -> Result<(Registry, Verifiers), Error> {
    let (settings, reference, auth) = (settings.clone(), reference.clone(), auth.cloned());
    let open = move || {
        Ok((
            Registry::open(&reference, auth.as_ref(), &settings)?,
            Verifiers::find(&settings.verifier_dirs)?,
        ))
    };
    spawn_blocking(open).await.map_err(|error| ended(&error))?
}

/// The image that has the tag here, if the registry says that the tag still means the same. That costs
/// neither bytes nor a count against the limits of public registries.
async fn unchanged(
    store: &Arc<Store>,
    registry: &Registry,
    reference: &Reference,
) -> Result<Option<Arc<Image>>, Error> {
    let catalogue = store.catalogue();
    let (Version::Tag(_), Some(known)) = (
        reference.version(),
        catalogue.called(&reference.to_string()),
    ) else {
        return Ok(None);
    };
    let digest = registry.digest_of_tag().await?;
    let current = digest.map(|digest| reference.with_digest(&digest).to_string());
    let is_known = current.is_some_and(|current| known.image.digests.contains(&current));
    Ok(is_known.then(|| known.image.clone()))
}

/// What the image will be known by: the reference, and the same repository with the digest of what the
/// registry gave for it.
fn names(reference: &Reference, digest: &Digest) -> Vec<String> {
    let by_digest = reference.with_digest(digest).to_string();
    match reference.version() {
        Version::Tag(_) => vec![reference.to_string(), by_digest],
        Version::Digest(_) => vec![by_digest],
    }
}

/// Follows indexes to the manifest of the image for this machine.
async fn choose(registry: &Registry, top: Fetched) -> Result<(Fetched, Manifest), Error> {
    let mut fetched = top;
    for _ in 0..MAX_INDEX_DEPTH {
        let what = fetched.digest.to_string();
        match Document::parse(&fetched.bytes, &fetched.media_type, &what)? {
            Document::Manifest(manifest) => return Ok((fetched, manifest)),
            Document::Index(descriptors) => {
                let chosen = platform::choose(&descriptors).ok_or_else(|| {
                    Error::refused(&what, format!("it has no image for {}", platform::name()))
                })?;
                fetched = registry.manifest_by_digest(&chosen.digest).await?;
            }
        }
    }
    Err(Error::refused(
        fetched.digest.as_str(),
        "its indexes lie too deep",
    ))
}

async fn add_names(
    store: &Arc<Store>,
    id: &ImageId,
    names: &[String],
) -> Result<Option<Arc<Image>>, Error> {
    let (store, id, names) = (store.clone(), id.clone(), names.to_vec());
    spawn_blocking(move || store.name(&id, names))
        .await
        .map_err(|error| ended(&error))?
}

fn found(fetched: Fetched, manifest: Manifest, config_bytes: Bytes, names: Vec<String>) -> Found {
    Found {
        descriptor: descriptor(&fetched),
        manifest,
        manifest_bytes: fetched.bytes,
        config_bytes,
        names,
    }
}

fn descriptor(fetched: &Fetched) -> Descriptor {
    Descriptor {
        media_type: fetched.media_type.clone(),
        digest: fetched.digest.clone(),
        size_bytes: fetched.bytes.len() as u64,
        platform: None,
        annotations: None,
    }
}
