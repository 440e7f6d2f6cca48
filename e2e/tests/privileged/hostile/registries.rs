//! Registries that lie, stall or break off: what they give is refused, nothing of it stays, and the next
//! attempt succeeds.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{
    Answer, Digest, Entry, Front, Image, Layer, Node, Packing, Registry, eventually, leftovers,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use toml::Value;

/// Of a layer; no compression makes it smaller. More than a transfer must bring to be a useful one.
const LAYER_BYTES: usize = 256 << 10;

/// An image of its own for each test: `docker.io/lies/<name>:1`.
struct Lied {
    image: Image,
    name: String,
    digest: Digest,
}

impl Lied {
    fn publish(name: &str) -> Self {
        let mut state = name
            .bytes()
            .fold(1, |state, byte| state * 31 + u64::from(byte));
        let mut noise = || {
            // xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        let mut layer = |file: &str| {
            let content: Vec<u8> = (0..LAYER_BYTES).map(|_| noise()).collect();
            Layer::new([Entry::file(file, content)])
        };
        let (one, two) = (layer("one"), layer("two"));
        let image = Image::new(vec![one.gzip(), two.pack(Packing::Plain)]);
        let digest = Registry::shared().publish(&format!("lies/{name}"), "1", &image);
        Self {
            image,
            name: format!("docker.io/lies/{name}:1"),
            digest,
        }
    }

    /// Of the layer that is not compressed.
    fn layer_size(&self) -> usize {
        self.image.layers[1].blob.len()
    }
}

/// A node that reaches docker.io by a front of the registry.
async fn start_node() -> Result<(Node, Front)> {
    let node = Node::start_empty(|config| {
        let image = config["image"].as_table_mut().expect("the harness has one");
        image.insert("stall_timeout_s".to_owned(), Value::Integer(1));
    })
    .await?;
    let registry = Registry::shared().address();
    let front = Front::start(registry).await?;
    let hosts = node.certs_dir().join("docker.io/hosts.toml");
    let text = std::fs::read_to_string(&hosts)?;
    let front_address = front.address().to_string();
    std::fs::write(&hosts, text.replace(&registry.to_string(), &front_address))?;
    Ok((node, front))
}

fn stored(node: &Node) -> BTreeSet<PathBuf> {
    let mut files = leftovers::files(&node.root_dir());
    // Written with the first image.
    files.remove(&node.root_dir().join("images/index.json"));
    files
}

/// Pulls what has to be refused by these words, and then, when the registry tells the truth, what has not.
async fn refused(node: &Node, front: &Front, lied: &Lied, words: &str) -> Result<()> {
    let before = stored(node);
    let pulled = node.pull(&lied.name).await;
    let error = pulled.err().context("a lie was believed")?;
    ensure!(error.message().contains(words), "{words:?}: {error}");
    ensure!(node.image(&lied.name).await?.is_none(), "it is listed");
    // Other layers may be on their way still, and go when they notice.
    let clean = eventually("nothing is left", || stored(node) == before).await;
    clean.with_context(|| format!("{words:?} left {:?}", stored(node)))?;
    front.tell_the_truth();
    node.pull(&lied.name).await.context(words.to_owned())?;
    node.remove_image(&lied.name).await?;
    ensure!(stored(node) == before, "{:?}", stored(node));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_registry_that_lies_about_layers_is_refused_and_then_believed() -> Result<()> {
    let (node, front) = start_node().await?;
    let lied = Lied::publish("layers");
    let size = lied.layer_size();
    let is_layer = move |answer: &mut Answer| answer.body().len() == size;

    front.lie("/blobs/", move |answer| {
        if is_layer(answer) {
            answer.body()[LAYER_BYTES / 2] ^= 1;
        }
    });
    refused(&node, &front, &lied, "its digest is another").await?;

    front.lie("/blobs/", move |answer| {
        if is_layer(answer) {
            answer.body().push(0);
            answer.fit_length();
        }
    });
    refused(&node, &front, &lied, "bytes instead of").await?;

    // Without a word on how long it is.
    front.lie("/blobs/", move |answer| {
        if is_layer(answer) {
            answer.body().push(0);
            answer.set_header("content-length", None);
        }
    });
    refused(&node, &front, &lied, "larger than the manifest says").await?;

    front.lie("/blobs/", |answer| answer.break_off(0));
    let words = "end of file before message length reached";
    refused(&node, &front, &lied, words).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_registry_that_lies_in_manifests_is_refused_and_then_believed() -> Result<()> {
    let (node, front) = start_node().await?;
    let lied = Lied::publish("lists");
    let (layer, config) = (lied.layer_size(), lied.image.config().bytes.len());
    for (size, other, words) in [
        (layer, layer - 1, "bytes instead of"),
        (layer, layer + 1, "bytes instead of"),
        (config, config - 1, "its answer is larger than"),
        (config, config + 1, "bytes instead of"),
    ] {
        let name = |size| format!("\"size\":{size}");
        front.lie("/manifests/", move |answer| {
            answer.replace(&name(size), &name(other));
        });
        refused(&node, &front, &lied, words).await?;
    }

    front.lie("/manifests/", |answer| answer.replace("layers", "liars"));
    refused(&node, &front, &lied, "its manifest has 0 layers").await?;

    let by_digest = Lied {
        name: format!("docker.io/lies/lists@{}", lied.digest),
        ..Lied::publish("lists")
    };
    front.lie("/manifests/", |answer| answer.replace("schema", "Schema"));
    refused(&node, &front, &by_digest, "its digest is another").await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_registry_that_stalls_is_given_up_and_then_asked_again() -> Result<()> {
    let (node, front) = start_node().await?;
    let lied = Lied::publish("stalls");
    front.lie("/blobs/", |answer| {
        if answer.body().len() >= LAYER_BYTES {
            answer.fall_silent(100);
        }
    });
    refused(&node, &front, &lied, "stalled for 1 s").await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pull_goes_on_where_a_registry_has_broken_off() -> Result<()> {
    let (node, front) = start_node().await?;
    let lied = Lied::publish("breaks-off");
    for silent in [false, true] {
        let told = Arc::new(AtomicU32::new(0));
        let lies = told.clone();
        front.lie("/blobs/", move |answer| {
            let half = answer.body().len() / 2;
            if half <= LAYER_BYTES / 8 {
                return;
            }
            lies.fetch_add(1, Ordering::Relaxed);
            match silent {
                true => answer.fall_silent(half),
                false => answer.break_off(half),
            }
        });
        node.pull(&lied.name).await?;
        let told = told.load(Ordering::Relaxed);
        // Each of the two layers at a half, three quarters and seven eighths.
        ensure!(told >= 6, "only {told} answers were cut off");
        node.remove_image(&lied.name).await?;
    }
    node.finish().await
}
