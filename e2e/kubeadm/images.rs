//! The images that kubeadm has a control plane made of.

use anyhow::{Context, Result};
use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{Entry, Image, Layer, Packing, Registry, tools};
use serde_json::json;
use std::fs;

/// Has the registry serve one by the name that kubeadm has for it: the program of that name, if there is
/// one among the tools.
pub(crate) fn publish(name: &str) -> Result<()> {
    let (path, tag) = name.rsplit_once(':').context("no tag")?;
    let (_, repository) = path.split_once('/').context("no registry")?;
    let (_, program) = path.rsplit_once('/').context("no registry")?;
    let file = tools::program("tools/kubernetes").join(program);
    let layer = match fs::read(file) {
        Ok(bytes) => Layer::new([Entry::program(program, bytes)]).pack(Packing::Plain),
        // Pulled, and never run.
        Err(_) => busybox_layer(),
    };
    let image = Image::new(vec![layer]).with("Env", json!(["PATH=/"]));
    Registry::shared().publish(repository, tag, &image);
    Ok(())
}
