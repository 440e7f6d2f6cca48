//! crisp's own service: what its command line needs and the CRI lacks.

use crate::error::{of_engine, of_image};
use crate::incoming::Incoming;
use crate::outgoing::{Chunks, Client, outgoing};
use crate::progress::{Heard, Reports, reports};
use crate::request::Invalid;
use crate::{Reply, answer, reply, request, span};
use crisp_cri_api::node::v1;
use crisp_cri_api::node::v1::node_server::Node;
use crisp_engine::{Engine, Error as EngineError, Kind};
use crisp_image::{Auth, Error as ImageError, Naming, Repair, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;
use tonic::{Request, Status, Streaming};
use tracing::Instrument;

/// Serves `crisp.node.v1.Node` from an engine.
#[derive(Debug)]
pub(crate) struct NodeServer {
    engine: Arc<Engine>,
    /// Held by the export that is under way, which reads all of its images from the disk.
    exports: Arc<Mutex<()>>,
}

impl NodeServer {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            exports: Arc::default(),
        }
    }

    /// The pod or container that an id, or the beginning of one, names.
    fn find(&self, id: &str) -> Result<(v1::Kind, String), Status> {
        let pod = self.engine.pod(id).map(|pod| pod.id.to_string());
        let container = self.engine.container(id).map(|c| c.id.to_string());
        one_of(id, pod, container).map_err(of_engine)
    }
}

/// The one that is known. An id that is neither's is told as a container's.
fn one_of(
    id: &str,
    pod: Result<String, EngineError>,
    container: Result<String, EngineError>,
) -> Result<(v1::Kind, String), EngineError> {
    match (pod, container) {
        (Ok(pod), Err(EngineError::NotFound { .. })) => Ok((v1::Kind::Pod, pod)),
        (Err(EngineError::NotFound { .. }), Ok(container)) => Ok((v1::Kind::Container, container)),
        (Ok(_), Ok(_)) => Err(EngineError::Ambiguous {
            kind: Kind::Container,
            prefix: id.to_owned(),
        }),
        (Err(EngineError::NotFound { .. }), Err(error)) | (Err(error), _) | (_, Err(error)) => {
            Err(error)
        }
    }
}

/// An export has ended before its end; that the client has gone is no fault.
fn unfinished(client: Client, error: ImageError) {
    if !client.presence()() {
        return tracing::debug!("the client of an export has gone");
    }
    let status = of_image(error);
    span::log_failure(&status);
    client.fail(status);
}

#[tonic::async_trait]
impl Node for NodeServer {
    type PullImageStream = Reports<v1::PullProgress>;

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Reply<Self::PullImageStream> {
        let request = request.into_inner();
        span::about_image(&request.image);
        let reference = request::reference(&request.image)?;
        let auth = request.credentials.map(|given| Auth {
            username: given.username,
            password: given.password,
            ..Auth::default()
        });
        let (images, heard) = (self.engine.images().clone(), Heard::default());
        let (sink, told) = (heard.sink(), heard.clone());
        let pull = async move {
            let image = images.pull(&reference, auth.as_ref(), &sink).await;
            let image = image.map_err(of_image)?;
            Ok(v1::PullProgress {
                blobs: told.blobs(),
                image: Some(answer::stored_image(&image)),
            })
        };
        reply(reports(pull, move || v1::PullProgress {
            blobs: heard.blobs(),
            image: None,
        }))
    }

    type ImportImagesStream = Reports<v1::ImportProgress>;

    async fn import_images(
        &self,
        request: Request<Streaming<v1::ImportChunk>>,
    ) -> Reply<Self::ImportImagesStream> {
        let archive = Incoming::new(request.into_inner());
        let (images, heard) = (self.engine.images().clone(), Heard::default());
        let (sink, told) = (heard.sink(), heard.clone());
        let import = async move {
            let stored = images.import(archive, &sink).await.map_err(of_image)?;
            Ok(v1::ImportProgress {
                received_bytes: told.received_bytes(),
                images: stored
                    .iter()
                    .map(|image| answer::stored_image(image))
                    .collect(),
            })
        };
        reply(reports(import, move || v1::ImportProgress {
            received_bytes: heard.received_bytes(),
            images: Vec::new(),
        }))
    }

    type ExportImagesStream = Chunks;

    async fn export_images(
        &self,
        request: Request<v1::ExportImagesRequest>,
    ) -> Reply<Self::ExportImagesStream> {
        let names = request.into_inner().images;
        if names.is_empty() {
            return Err(Invalid::new("images", "is empty").into());
        }
        span::about_image(&names[0]);
        let (archive, client, chunks) = outgoing();
        let (images, turns) = (self.engine.images().clone(), self.exports.clone());
        let export = async move {
            let _turn = tokio::select! {
                turn = turns.lock() => turn,
                () = client.gone() => return,
            };
            let exported = images.export(&names, archive, client.presence()).await;
            exported.unwrap_or_else(|error| unfinished(client, error));
        };
        tokio::spawn(export.in_current_span());
        reply(chunks)
    }

    async fn tag_image(&self, request: Request<v1::TagImageRequest>) -> Reply<v1::StoredImage> {
        let request = request.into_inner();
        span::about_image(&request.image);
        let name = request::reference(&request.name)?;
        if let Version::Digest(_) = name.version() {
            return Err(Invalid::new("name", "is a digest, which no one can choose").into());
        }
        let naming = match request.force {
            true => Naming::Force,
            false => Naming::IfFree,
        };
        let tagged = self.engine.images().tag(&request.image, &name, naming);
        let image = tagged.await.map_err(of_image)?;
        reply(answer::stored_image(&image))
    }

    async fn untag_image(
        &self,
        request: Request<v1::UntagImageRequest>,
    ) -> Reply<v1::UntagImageReply> {
        let name = request.into_inner().name;
        span::about_image(&name);
        let name = request::reference(&name)?;
        let untagged = self.engine.images().untag(&name).await;
        untagged.map_err(of_image)?;
        reply(v1::UntagImageReply {})
    }

    type CheckStoreStream = Reports<v1::StoreProgress>;

    async fn check_store(
        &self,
        request: Request<v1::CheckStoreRequest>,
    ) -> Reply<Self::CheckStoreStream> {
        let repair = match request.into_inner().repair {
            true => Repair::Yes,
            false => Repair::No,
        };
        let images = self.engine.images().clone();
        let read_bytes = Arc::new(AtomicU64::new(0));
        let told = read_bytes.clone();
        let check = async move {
            let listener = told.clone();
            let hear = move |bytes| listener.store(bytes, Ordering::Relaxed);
            let report = images.check(repair, hear).await.map_err(of_image)?;
            Ok(v1::StoreProgress {
                read_bytes: told.load(Ordering::Relaxed),
                report: Some(answer::store_report(report)),
            })
        };
        reply(reports(check, move || v1::StoreProgress {
            read_bytes: read_bytes.load(Ordering::Relaxed),
            report: None,
        }))
    }

    async fn inspect(&self, request: Request<v1::InspectRequest>) -> Reply<v1::InspectReply> {
        let request = request.into_inner();
        let (kind, id) = self.find(request::any_id(&request.id)?)?;
        let info = match kind {
            v1::Kind::Pod => {
                span::about_pod(&id);
                self.engine.pod_info(&id)
            }
            v1::Kind::Container | v1::Kind::Unspecified => {
                span::about_container(&id);
                self.engine.container_info(&id)
            }
        };
        reply(v1::InspectReply {
            kind: kind.into(),
            id,
            json: info.map_err(of_engine)?.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(kind: Kind) -> Result<String, EngineError> {
        Err(EngineError::NotFound {
            kind,
            id: "ab".to_owned(),
        })
    }

    fn several(kind: Kind) -> Result<String, EngineError> {
        Err(EngineError::Ambiguous {
            kind,
            prefix: "ab".to_owned(),
        })
    }

    fn found(id: &str) -> Result<String, EngineError> {
        Ok(id.to_owned())
    }

    #[test]
    fn an_id_names_a_pod_or_a_container_but_not_both() {
        let (no_pod, no_container) = (unknown(Kind::Pod), unknown(Kind::Container));
        let pod = one_of("ab", found("abc"), no_container.clone()).unwrap();
        assert_eq!(pod, (v1::Kind::Pod, "abc".to_owned()));
        let container = one_of("ab", no_pod.clone(), found("abd")).unwrap();
        assert_eq!(container, (v1::Kind::Container, "abd".to_owned()));

        let neither = one_of("ab", no_pod.clone(), no_container.clone()).unwrap_err();
        assert!(matches!(neither, EngineError::NotFound { .. }));
        for (pod, container) in [
            (found("abc"), found("abd")),
            (found("abc"), several(Kind::Container)),
            (several(Kind::Pod), no_container),
            (no_pod, several(Kind::Container)),
        ] {
            let error = one_of("ab", pod, container).unwrap_err();
            assert!(matches!(error, EngineError::Ambiguous { .. }), "{error}");
        }
    }
}
