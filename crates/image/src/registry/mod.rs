//! Registries: the part of the distribution specification that pulling needs, over one or several hosts.
//!
//! Why a client of our own: oci-client has one trust and one set of headers for all hosts, reaches
//! mirrors by host name only, follows redirects by itself, and resumes nothing. What `hosts.toml` can say
//! would have meant a client for each host and most of the requests by hand. hyper, on which the gRPC
//! server rests anyway, and rustls with ring (no cmake) leave a small tree of dependencies, and one buffer
//! for each transfer.

mod answer;
mod challenge;
mod connect;
mod endpoint;
pub(crate) mod hosts;
mod redirect;

use crate::auth::Credentials;
use crate::manifest::{self, Descriptor, MAX_MANIFEST_BYTES};
use crate::{Auth, Digest, Error, Reference, Settings, Version};
use answer::{Failure, read_body, unavailable};
use bytes::Bytes;
use endpoint::{Ask, Endpoint};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Pauses before all hosts are asked again, after all of them failed.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];
/// Attempts at a blob that bring nothing new, before it is given up.
const MAX_FRUITLESS_ATTEMPTS: usize = 4;
/// A transfer that brings less than this within the stall timeout has stalled.
const MIN_PROGRESS_BYTES: u64 = 16 << 10;

const ANY_CONTENT: &str = "*/*";

/// A registry, as one pull sees it.
pub(crate) struct Registry {
    reference: Reference,
    endpoints: Vec<Endpoint>,
    stall_timeout: Duration,
}

/// A manifest or index as it was given.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
}

/// How a blob's transfer to its reader ended.
enum Transfer {
    Complete,
    /// The reader has gone; it knows why.
    Unwanted,
}

impl Registry {
    /// Reads the configuration for the reference's registry. Blocks on small files.
    pub(crate) fn open(
        reference: &Reference,
        auth: Option<&Auth>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let credentials: Option<Credentials> = auth
            .map(|auth| auth.for_reference(reference))
            .transpose()?
            .flatten();
        let endpoints = hosts::hosts(reference.registry(), &settings.registry_config_dirs)?
            .into_iter()
            .map(|host| {
                Endpoint::new(
                    host,
                    reference.registry(),
                    reference.repository(),
                    credentials.clone(),
                )
            })
            .collect();
        Ok(Self {
            reference: reference.clone(),
            endpoints,
            stall_timeout: settings.stall_timeout(),
        })
    }

    /// What the reference's tag means now, if the registry tells without giving all of it.
    pub(crate) async fn digest_of_tag(&self) -> Result<Option<Digest>, Error> {
        let path = self.manifest_path(self.reference.version());
        let ask = Ask {
            method: Method::HEAD,
            path: &path,
            accept: &accept(),
            skip_bytes: 0,
        };
        let response = self.ask(&ask, |endpoint| endpoint.host.can_resolve).await?;
        Ok(docker_content_digest(response.headers()))
    }

    /// The manifest or index of the reference.
    pub(crate) async fn manifest(&self) -> Result<Fetched, Error> {
        self.fetch_manifest(self.reference.version()).await
    }

    /// The manifest or index with this digest.
    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Fetched, Error> {
        self.fetch_manifest(&Version::Digest(digest.clone())).await
    }

    async fn fetch_manifest(&self, version: &Version) -> Result<Fetched, Error> {
        let path = self.manifest_path(version);
        let ask = Ask {
            method: Method::GET,
            path: &path,
            accept: &accept(),
            skip_bytes: 0,
        };
        let can_serve = |endpoint: &Endpoint| match version {
            Version::Tag(_) => endpoint.host.can_resolve,
            Version::Digest(_) => endpoint.host.can_pull,
        };
        let response = self.ask(&ask, can_serve).await?;
        let media_type = media_type(response.headers());
        let body = read_body(response, MAX_MANIFEST_BYTES).await;
        let bytes = body.map_err(|failure| self.error(&failure, &[]))?;
        let digest = check_digest(version, &bytes)?;
        Ok(Fetched {
            bytes,
            media_type,
            digest,
        })
    }

    /// A small blob, whole and checked.
    pub(crate) async fn small_blob(
        &self,
        blob: &Descriptor,
        max_bytes: u64,
    ) -> Result<Bytes, Error> {
        if blob.size_bytes > max_bytes {
            return Err(Error::refused(
                what(blob),
                format!("it is larger than {max_bytes} bytes"),
            ));
        }
        let path = self.blob_path(&blob.digest);
        let ask = Ask {
            method: Method::GET,
            path: &path,
            accept: ANY_CONTENT,
            skip_bytes: 0,
        };
        let response = self.ask(&ask, |endpoint| endpoint.host.can_pull).await;
        let response = response.map_err(|error| missing(error, blob))?;
        let body = read_body(response, blob.size_bytes).await;
        let bytes = body.map_err(|failure| self.error(&failure, &[]))?;
        check_size(blob, bytes.len() as u64)?;
        check_digest(&Version::Digest(blob.digest.clone()), &bytes)?;
        Ok(bytes)
    }

    /// Streams a blob to a reader that checks it. Goes on where a broken transfer ended; ends without an
    /// error when the reader has gone.
    pub(crate) async fn stream_blob(
        &self,
        blob: &Descriptor,
        reader: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let path = self.blob_path(&blob.digest);
        let mut done_bytes = 0;
        let mut fruitless_attempts = 0;
        loop {
            let before = done_bytes;
            let ask = Ask {
                method: Method::GET,
                path: &path,
                accept: ANY_CONTENT,
                skip_bytes: before,
            };
            let response = self
                .ask_from(fruitless_attempts, &ask, |endpoint| endpoint.host.can_pull)
                .await;
            let response = response.map_err(|error| missing(error, blob))?;
            let reason = match self
                .transfer(response, blob, &mut done_bytes, &reader)
                .await
            {
                Ok(Transfer::Complete | Transfer::Unwanted) => return Ok(()),
                Err(Failure::Unavailable(reason)) => reason,
                Err(failure) => return Err(self.error(&failure, &[])),
            };
            fruitless_attempts = if done_bytes > before + MIN_PROGRESS_BYTES {
                0
            } else {
                fruitless_attempts + 1
            };
            if fruitless_attempts == MAX_FRUITLESS_ATTEMPTS {
                let reason = format!(
                    "{}: {reason} after {done_bytes} of {} bytes",
                    what(blob),
                    blob.size_bytes
                );
                return Err(self.error(&Failure::Unavailable(reason), &[]));
            }
            tracing::debug!(digest = %blob.digest, done_bytes, reason, "resuming a transfer");
            sleep(RETRY_PAUSES[0]).await;
        }
    }

    async fn transfer(
        &self,
        response: Response<Incoming>,
        blob: &Descriptor,
        done_bytes: &mut u64,
        reader: &mpsc::Sender<Bytes>,
    ) -> Result<Transfer, Failure> {
        let mut known_bytes = known_bytes(&response, blob, *done_bytes)?;
        let mut body = response.into_body();
        let mut pace = Pace::new(self.stall_timeout);
        while let Some(frame) = pace.wait(body.frame()).await? {
            let frame = frame.map_err(|error| unavailable(&error))?;
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            pace.add(data.len() as u64);
            // A host that cannot resume begins again: what is known of it is passed over.
            let skipped = data
                .len()
                .min(usize::try_from(known_bytes).unwrap_or(usize::MAX));
            known_bytes -= skipped as u64;
            let data = data.split_off(skipped);
            *done_bytes += data.len() as u64;
            if *done_bytes > blob.size_bytes {
                return Err(Failure::Final(Error::corrupt(
                    what(blob),
                    "it is larger than the manifest says",
                )));
            }
            if !data.is_empty() && reader.send(data).await.is_err() {
                return Ok(Transfer::Unwanted);
            }
        }
        if *done_bytes == blob.size_bytes {
            Ok(Transfer::Complete)
        } else {
            Err(Failure::Unavailable("the transfer ended early".to_owned()))
        }
    }

    /// Asks the hosts that can serve it, in their order, and all of them again if they fail.
    async fn ask(
        &self,
        ask: &Ask<'_>,
        can_serve: impl Fn(&Endpoint) -> bool,
    ) -> Result<Response<Incoming>, Error> {
        self.ask_from(0, ask, can_serve).await
    }

    /// The same, with so many hosts moved from the front to the end.
    async fn ask_from(
        &self,
        first: usize,
        ask: &Ask<'_>,
        can_serve: impl Fn(&Endpoint) -> bool,
    ) -> Result<Response<Incoming>, Error> {
        let mut hosts: Vec<&Endpoint> = self
            .endpoints
            .iter()
            .filter(|endpoint| can_serve(endpoint))
            .collect();
        let count = hosts.len().max(1);
        hosts.rotate_left(first % count);
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let mut failures = Vec::new();
            for endpoint in &hosts {
                match endpoint.ask(ask).await {
                    Ok(response) => return Ok(response),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(failure) => failures.push((endpoint.host.authority.clone(), failure)),
                }
            }
            // The last host is the registry itself; what it says counts more than what mirrors say.
            let (_, last) = failures.pop().unwrap_or_else(|| {
                let reason = "no host is configured that serves this".to_owned();
                (String::new(), Failure::Unavailable(reason))
            });
            match (pauses.next(), &last) {
                (Some(pause), Failure::Unavailable(_)) => sleep(*pause).await,
                _ => return Err(self.error(&last, &failures)),
            }
        }
    }

    fn error(&self, failure: &Failure, of_mirrors: &[(String, Failure)]) -> Error {
        let registry = self.reference.registry().to_owned();
        let mirrors = of_mirrors.iter().map(|(host, failure)| match failure {
            Failure::NotFound => format!("; {host}: not found"),
            Failure::Denied(reason) | Failure::Unavailable(reason) => format!("; {host}: {reason}"),
            Failure::Final(error) => format!("; {host}: {error}"),
        });
        let mirrors: String = mirrors.collect();
        match failure {
            Failure::NotFound => Error::not_found(self.reference.to_string()),
            Failure::Denied(reason) => Error::Unauthorized {
                registry,
                repository: self.reference.repository().to_owned(),
                reason: format!("{reason}{mirrors}"),
            },
            Failure::Unavailable(reason) => Error::RegistryUnavailable {
                registry,
                reason: format!("{reason}{mirrors}"),
            },
            Failure::Final(error) => error.clone(),
        }
    }

    fn manifest_path(&self, version: &Version) -> String {
        let version = match version {
            Version::Tag(tag) => tag.as_str(),
            Version::Digest(digest) => digest.as_str(),
        };
        format!("/{}/manifests/{version}", self.reference.repository())
    }

    fn blob_path(&self, digest: &Digest) -> String {
        format!("/{}/blobs/{digest}", self.reference.repository())
    }
}

fn what(blob: &Descriptor) -> String {
    format!("blob {}", blob.digest)
}

/// A registry that has a manifest but not what it names is not one without the image.
fn missing(error: Error, blob: &Descriptor) -> Error {
    match error {
        Error::NotFound { .. } => Error::corrupt(what(blob), "the registry does not have it"),
        error => error,
    }
}

fn accept() -> String {
    [
        manifest::OCI_INDEX,
        manifest::OCI_MANIFEST,
        manifest::DOCKER_INDEX,
        manifest::DOCKER_MANIFEST,
    ]
    .join(", ")
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn docker_content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// The digest of what came: the one that was asked for, or for a tag a new one.
fn check_digest(version: &Version, bytes: &[u8]) -> Result<Digest, Error> {
    match version {
        Version::Tag(_) => Ok(Digest::of(bytes)),
        Version::Digest(asked) => {
            let mut hasher = crate::digest::Hasher::like(asked);
            hasher.update(bytes);
            if hasher.finish() == *asked {
                Ok(asked.clone())
            } else {
                Err(Error::corrupt(asked.to_string(), "its digest is another"))
            }
        }
    }
}

/// How many bytes of the body are known already, from what the host says that it sends.
fn known_bytes(
    response: &Response<Incoming>,
    blob: &Descriptor,
    done_bytes: u64,
) -> Result<u64, Failure> {
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {done_bytes}-{}/", blob.size_bytes.saturating_sub(1));
        return match header(CONTENT_RANGE) {
            Some(given) if given.starts_with(&range) => Ok(0),
            _ => Err(Failure::Unavailable(
                "it sends another part than it was asked for".to_owned(),
            )),
        };
    }
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if let Some(length) = length {
        check_size(blob, length).map_err(Failure::Final)?;
    }
    Ok(done_bytes)
}

/// What a registry gives as a blob has the size that its manifest says.
fn check_size(blob: &Descriptor, bytes: u64) -> Result<(), Error> {
    match bytes == blob.size_bytes {
        true => Ok(()),
        false => Err(Error::corrupt(
            what(blob),
            format!("it has {bytes} bytes instead of {}", blob.size_bytes),
        )),
    }
}

/// Notices a transfer that has stalled or nearly so. The time that the reader takes does not count.
struct Pace {
    stall_timeout: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(stall_timeout: Duration) -> Self {
        Self {
            stall_timeout,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    async fn wait<T>(&mut self, coming: impl Future<Output = T>) -> Result<T, Failure> {
        let start = Instant::now();
        let left = self.stall_timeout.saturating_sub(self.waited);
        let result = timeout(left, coming).await;
        self.waited += start.elapsed();
        result.map_err(|_| {
            Failure::Unavailable(format!(
                "the transfer stalled for {} s",
                self.stall_timeout.as_secs()
            ))
        })
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= MIN_PROGRESS_BYTES {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
    }
}
