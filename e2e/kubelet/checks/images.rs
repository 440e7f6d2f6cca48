//! Image pull policies, and the kubelet's garbage collection of images.

use crate::kubelet::{Kubelet, UNUSED_IMAGE};
use crate::pod::container;
use anyhow::{Result, ensure};
use crisp_e2e::catalog::{BUSYBOX, busybox_layer};
use crisp_e2e::manifest::{pause, sh_with};
use crisp_e2e::{Image, Registry};
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

pub(super) async fn always_pulls_each_time_and_if_not_present_once(
    kubelet: &Kubelet,
) -> Result<()> {
    ensure!(word_of(kubelet, "first", "Always").await? == "first\n");
    ensure!(word_of(kubelet, "second", "Always").await? == "second\n");
    ensure!(word_of(kubelet, "third", "IfNotPresent").await? == "second\n");
    Ok(())
}

/// Moves a tag to an image that holds a word, and has a pod say the word of the image that it gets.
async fn word_of(kubelet: &Kubelet, word: &str, policy: &str) -> Result<String> {
    let image = Image::new(vec![busybox_layer()]).with("Env", json!([format!("WORD={word}")]));
    Registry::shared().publish("library/moving", "1", &image);
    let image = json!({"image": "docker.io/library/moving:1", "imagePullPolicy": policy});
    let main = sh_with("main", "echo $WORD", image);
    let spec = json!({"restartPolicy": "Never", "containers": [main]});
    let pod = kubelet.add(&format!("word-{word}"), spec)?;
    let object = pod.ended().await?;
    let status = container(&object, "main")?;
    let id = status["imageID"].as_str().unwrap_or_default();
    ensure!(id.contains("sha256:"), "{status}");
    let said = pod.logs("main").await?;
    pod.remove().await?;
    Ok(said)
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
