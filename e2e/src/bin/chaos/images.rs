//! A client that pulls an image and removes it again, over and over. Others use a layer of it.

use crate::kubelet::{Kubelet, Want, no_refusal};
use anyhow::{Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::catalog::{BUSYBOX, busybox_layer};
use crisp_e2e::{Entry, Image, Layer, Registry, image_spec};

/// As much as makes the pull of it take a moment.
const LAYER_BYTES: usize = 8 << 20;

/// Makes the image of a client available.
pub(crate) fn publish(client: u64) -> String {
    let repository = format!("chaos/image-{client}");
    let content = format!("{client} is not compressible by much\n").repeat(LAYER_BYTES / 32);
    let layer = Layer::new([Entry::file("content", content)]).gzip();
    let image = Image::new(vec![busybox_layer(), layer]);
    Registry::shared().publish(&repository, "1", &image);
    format!("docker.io/{repository}:1")
}

/// Pulls and removes until the end.
pub(crate) async fn turn_over(mut kubelet: Kubelet, image: String) -> Result<()> {
    let world = kubelet.world.clone();
    loop {
        world.pause(kubelet.random.milliseconds(200, 3000)).await;
        if world.is_ending() {
            return Ok(());
        }
        let _step = world.steps.read().await;
        let mut kubelet = kubelet.fork();
        if kubelet.random.chance(20) {
            // As for a container whose image is always to be pulled.
            pull(&mut kubelet, BUSYBOX).await?;
        }
        pull(&mut kubelet, &image).await?;
        ensure!(
            is_there(&mut kubelet, &image).await?,
            "{image} is pulled and not there"
        );
        remove(&mut kubelet, &image).await?;
        ensure!(
            !is_there(&mut kubelet, &image).await?,
            "{image} is removed and there"
        );
        ensure!(is_there(&mut kubelet, BUSYBOX).await?, "{BUSYBOX} is gone");
    }
}

async fn pull(kubelet: &mut Kubelet, image: &str) -> Result<()> {
    let settled = kubelet
        .settle(
            Want::new("PullImage", image),
            no_refusal,
            async |client, patience| {
                let request = PullImageRequest {
                    image: Some(image_spec(image)),
                    ..PullImageRequest::default()
                };
                client
                    .images()
                    .pull_image(patience.request(request))
                    .await
                    .map(drop)
            },
        )
        .await?;
    settled.must()
}

async fn is_there(kubelet: &mut Kubelet, image: &str) -> Result<bool> {
    let settled = kubelet
        .settle(
            Want::new("ImageStatus", image),
            no_refusal,
            async |client, patience| {
                let request = ImageStatusRequest {
                    image: Some(image_spec(image)),
                    verbose: false,
                };
                let answer = client
                    .images()
                    .image_status(patience.request(request))
                    .await;
                answer.map(|answer| answer.into_inner().image.is_some())
            },
        )
        .await?;
    settled.must()
}

async fn remove(kubelet: &mut Kubelet, image: &str) -> Result<()> {
    let settled = kubelet
        .settle(
            Want::new("RemoveImage", image),
            no_refusal,
            async |client, patience| {
                let request = RemoveImageRequest {
                    image: Some(image_spec(image)),
                };
                client
                    .images()
                    .remove_image(patience.request(request))
                    .await
                    .map(drop)
            },
        )
        .await?;
    settled.must()
}
