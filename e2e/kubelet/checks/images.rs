//! Image pull policies, and the kubelet's garbage collection of images.

use super::{pause, sh_with};
use crate::kubelet::{Kubelet, UNUSED_IMAGE};
use crate::pod::container;
use anyhow::{Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use serde_json::{Value, json};

async fn waits_with(kubelet: &Kubelet, name: &str, image: &Value, reason: &str) -> Result<String> {
    let pod = kubelet.add(
        name,
        json!({"containers": [sh_with("main", "true", image.clone())]}),
    )?;
    let message = pod
        .until("the container waits for its image", |object| {
            let waiting = &container(object, "main").ok()?["state"]["waiting"];
            let message = waiting["message"].as_str().unwrap_or_default();
            (waiting["reason"] == reason).then(|| message.to_owned())
        })
        .await?;
    pod.remove().await?;
    Ok(message)
}

pub(super) async fn absent_image_that_may_not_be_pulled_is_an_error(
    kubelet: &Kubelet,
) -> Result<()> {
    let image = json!({"image": "docker.io/library/absent:1", "imagePullPolicy": "Never"});
    waits_with(kubelet, "neverpull", &image, "ErrImageNeverPull").await?;
    Ok(())
}

pub(super) async fn image_that_does_not_exist_backs_off(kubelet: &Kubelet) -> Result<()> {
    let image = json!({"image": "docker.io/library/absent:2", "imagePullPolicy": "IfNotPresent"});
    let message = waits_with(kubelet, "absent", &image, "ImagePullBackOff").await?;
    ensure!(message.contains("absent:2"), "{message}");
    Ok(())
}

pub(super) async fn always_pulls_each_time(kubelet: &Kubelet) -> Result<()> {
    let image = json!({"image": BUSYBOX, "imagePullPolicy": "Always"});
    let main = sh_with("main", "echo pulled", image);
    let pod = kubelet.add(
        "always",
        json!({"restartPolicy": "Never", "containers": [main]}),
    )?;
    let object = pod.ended().await?;
    let status = container(&object, "main")?;
    ensure!(
        status["imageID"]
            .as_str()
            .is_some_and(|id| id.contains("sha256:")),
        "{status}"
    );
    pod.remove().await
}

/// The kubelet looks every five minutes, and spares what it sees for the first time.
pub(super) async fn unused_images_are_collected(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add("user", json!({"containers": [pause("main")]}))?;
    pod.ready().await?;
    kubelet
        .until("the image that nobody uses is removed", async || {
            let image = kubelet.node.image(UNUSED_IMAGE).await.ok()?;
            image.is_none().then_some(())
        })
        .await?;
    let used = kubelet.node.image(BUSYBOX).await?;
    ensure!(used.is_some(), "an image in use was removed");
    pod.remove().await
}
