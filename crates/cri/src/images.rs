//! The CRI's service for images.

use crate::answer::DiskUsage;
use crate::error::{of_engine, of_image};
use crate::pieces::{Pieces, pieces};
use crate::{Reply, answer, reply, request, span};
use crisp_cri_api::v1;
use crisp_cri_api::v1::image_service_server::ImageService;
use crisp_engine::{Engine, Error as EngineError, Kind};
use crisp_image::{ImageId, Images, ProgressSink};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::{Request, Status};

/// Serves `runtime.v1.ImageService` from an engine's images.
#[derive(Debug)]
pub(crate) struct ImageServer {
    engine: Arc<Engine>,
}

/// Tells an image by digest where it is known by one, else by its id.
pub(crate) fn by_digest(images: &Images) -> impl Fn(&str) -> String {
    |id| match images.find(id) {
        Ok(Some(image)) => answer::image_reference(&image),
        Ok(None) | Err(_) => id.to_owned(),
    }
}

/// The name of the image that the RPC is about.
fn named(image: Option<v1::ImageSpec>) -> request::Parsed<String> {
    let name = request::image_spec(image)?.image;
    span::about_image(&name);
    Ok(name)
}

impl ImageServer {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    fn images(&self) -> &Arc<Images> {
        self.engine.images()
    }

    /// Nobody but a handler that exists can want an image.
    fn known_handler(&self, handler: &str) -> Result<(), Status> {
        match self.engine.config().has_handler(handler) {
            true => Ok(()),
            false => Err(of_engine(EngineError::NotFound {
                kind: Kind::Handler,
                id: handler.to_owned(),
            })),
        }
    }

    async fn info(&self, image: ImageId) -> Result<BTreeMap<String, String>, Status> {
        let images = self.images().clone();
        let config = blocking(move || images.config_json(&image)).await?;
        Ok(answer::image_info(&config))
    }

    fn list(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|image| image.image);
        let images = match wanted.filter(|name| !name.is_empty()) {
            None => self.images().list(),
            Some(name) => {
                let found = self.images().find(&name).map_err(of_image)?;
                found.into_iter().collect()
            }
        };
        Ok(images.iter().map(|image| answer::image(image)).collect())
    }
}

/// Runs what reads the disk on a thread that may wait for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crisp_image::Error> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(of_image),
        Err(error) => Err(Status::internal(format!("a task ended early: {error}"))),
    }
}

fn disk_usage(images: &Images) -> Result<DiskUsage, crisp_image::Error> {
    let (images, containers) = (images.image_usage(), images.container_usage()?);
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    Ok(DiskUsage {
        same_file_system: device(&images.path) == device(&containers.path),
        images,
        containers,
    })
}

#[tonic::async_trait]
impl ImageService for ImageServer {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Reply<v1::ListImagesResponse> {
        let images = self.list(request.into_inner().filter)?;
        reply(v1::ListImagesResponse { images })
    }

    type StreamImagesStream = Pieces<v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let images = self.list(request.into_inner().filter)?;
        reply(pieces(images, |images| v1::StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Reply<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let Some(image) = self.images().find(&name).map_err(of_image)? else {
            return reply(v1::ImageStatusResponse::default());
        };
        let mut response = v1::ImageStatusResponse {
            image: Some(answer::image(&image)),
            ..Default::default()
        };
        if request.verbose {
            response.info = self.info(image.id.clone()).await?;
        }
        reply(response)
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Reply<v1::PullImageResponse> {
        let request = request.into_inner();
        let image = request::image_spec(request.image)?;
        span::about_image(&image.image);
        self.known_handler(&image.runtime_handler)?;
        let reference = request::reference(&image.image)?;
        let auth = request.auth.map(request::credentials);
        let progress = ProgressSink::none();
        let pull = self.images().pull(&reference, auth.as_ref(), &progress);
        let image = pull.await.map_err(of_image)?;
        reply(v1::PullImageResponse {
            image_ref: image.id.to_string(),
        })
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Reply<v1::RemoveImageResponse> {
        let name = named(request.into_inner().image)?;
        self.images().remove(&name).await.map_err(of_image)?;
        reply(v1::RemoveImageResponse {})
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Reply<v1::ImageFsInfoResponse> {
        let images = self.images().clone();
        let disk = blocking(move || disk_usage(&images)).await?;
        reply(answer::image_fs_info(&disk, SystemTime::now()))
    }
}
