//! `ctr`: what it is called with, and where that leads.

use super::{NAMESPACE, images};
use crate::client::{Client, Target};
use crate::output;
use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::path::PathBuf;

/// crisp in containerd's place: its images.
#[derive(Debug, Parser)]
#[command(name = "ctr", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Of images; there is none but k8s.io.
    #[arg(short, long, env = "CONTAINERD_NAMESPACE", default_value = NAMESPACE)]
    namespace: String,
    /// The daemon's socket.
    #[arg(short, long, value_name = "PATH", env = "CONTAINERD_ADDRESS")]
    address: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List, take in, write out, name and remove images.
    #[command(aliases = ["image", "i"])]
    Images {
        #[command(subcommand)]
        command: images::Command,
    },
    /// Fetch images.
    #[command(alias = "c")]
    Content {
        #[command(subcommand)]
        command: Content,
    },
    /// Tell what serves the socket.
    Info,
    /// Tell the versions of both sides.
    #[command(alias = "v")]
    Version,
}

#[derive(Debug, Subcommand)]
enum Content {
    /// Fetch an image from its registry.
    Fetch(images::Pull),
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.namespace != NAMESPACE {
        bail!(
            "there is no namespace {:?}: all images are those of {NAMESPACE}",
            arguments.namespace
        );
    }
    let target = Target::at(arguments.address.clone());
    Client::with(&target, async |client| match &arguments.command {
        Command::Images { command } => images::run(command, &client).await,
        Command::Content {
            command: Content::Fetch(pull),
        } => images::pull(pull, &client).await,
        Command::Info => info(&client).await,
        Command::Version => version(&client).await,
    })
}

async fn info(client: &Client) -> Result<()> {
    let server = client.version().await?;
    let told =
        json!({ "server": { "name": server.runtime_name, "version": server.runtime_version } });
    output::line(serde_json::to_string_pretty(&told)?)
}

async fn version(client: &Client) -> Result<()> {
    let server = client.version().await?;
    output::line(format_args!(
        "Client:\n  Version:  v{}\n\nServer:\n  Version:  v{}",
        env!("CARGO_PKG_VERSION"),
        server.runtime_version
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::Command as Image;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    fn image(line: &str) -> Image {
        match parse(line).unwrap().command {
            Command::Images { command } => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Each as the tool calls it.
    #[test]
    fn all_that_kind_and_minikube_call_is_known() {
        for line in [
            "ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -",
            "ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests -",
            "ctr -n=k8s.io images import /tmp/image.tar",
            "ctr image import /tmp/image.tar",
        ] {
            assert!(matches!(image(line), Image::Import(_)), "{line}");
        }
        for line in [
            "ctr --namespace=k8s.io images tag --force sha256:01 docker.io/library/a:1",
            "ctr -n=k8s.io images tag a:1 b:1",
        ] {
            assert!(matches!(image(line), Image::Tag(_)), "{line}");
        }
        for line in [
            "ctr --namespace=k8s.io images list -q",
            "ctr -n=k8s.io images ls name==docker.io/library/a:1",
        ] {
            assert!(matches!(image(line), Image::Ls(_)), "{line}");
        }
        let export = image("ctr -n=k8s.io images export /tmp/image.tar a:1");
        assert!(matches!(export, Image::Export(_)));
        let delete = image("ctr -n k8s.io images delete a:1 b:1");
        assert!(matches!(delete, Image::Rm(_)));
        let fetch = "ctr --namespace=k8s.io content fetch --platform=linux/amd64 a:1";
        let fetch = parse(fetch).unwrap().command;
        let Command::Content { command } = fetch else {
            panic!("{fetch:?}")
        };
        assert!(matches!(command, Content::Fetch(_)));
        assert!(matches!(parse("ctr info").unwrap().command, Command::Info));
    }

    #[test]
    fn what_is_containerds_alone_is_refused_by_name() {
        for (line, name) in [
            ("ctr -n k8s.io tasks ls", "'tasks'"),
            ("ctr images push a:1", "'push'"),
            ("ctr content ls", "'ls'"),
            ("ctr images import --index-name x -", "'--index-name'"),
            ("ctr images import", "<FILE>"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(name), "{line}: {error}");
        }
        let elsewhere = parse("ctr -n default images ls").unwrap();
        let error = run(&elsewhere).unwrap_err().to_string();
        assert!(error.contains("\"default\""), "{error}");
    }
}
