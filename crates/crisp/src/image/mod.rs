//! `crisp image`: images on the node.

pub(crate) mod export;
pub(crate) mod list;
pub(crate) mod progress;
pub(crate) mod transfer;

pub(crate) use transfer::fetch;

use crate::client::{Client, Target, image_spec, told};
use crate::output;
use anyhow::{Context, Result, bail};
use crisp_cri_api::node::v1::{Credentials, StoredImage, TagImageRequest, UntagImageRequest};
use crisp_cri_api::v1;
use std::path::PathBuf;
use std::process::ExitCode;
use tonic::Code;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List images.
    Ls(list::Arguments),
    /// Fetch an image from its registry.
    Pull {
        /// A reference; without a registry it is one of docker.io, without a tag `latest`.
        image: String,
        /// What the registry knows you by.
        #[arg(
            long,
            value_name = "USER:PASSWORD",
            env = "CRISP_CREDS",
            hide_env_values = true
        )]
        creds: Option<String>,
    },
    /// Take in the images of an OCI or docker archive.
    Import {
        /// The archive; - is standard input.
        file: PathBuf,
    },
    /// Write images into one archive: an OCI layout, which docker and containerd load too.
    Export {
        /// Where to; - is standard output.
        file: PathBuf,
        /// References or ids.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Give an image a name more.
    Tag {
        /// A reference or an id.
        image: String,
        /// A reference; without a registry it is one of docker.io, without a tag `latest`.
        name: String,
        /// Take the name away from another image that has it.
        #[arg(long)]
        force: bool,
    },
    /// Take names away from images; an image is removed with its last one.
    Untag {
        /// References.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove images, each with all its names.
    Rm {
        /// References or ids.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    Client::with(target, async |client| match &arguments.command {
        Command::Ls(ls) => list::run(ls, &client).await,
        Command::Pull { image, creds } => {
            let credentials = creds.as_deref().map(credentials).transpose()?;
            transfer::pull(&client, image, credentials).await
        }
        Command::Import { file } => {
            let images = transfer::import(&client, file).await?;
            let mut images = images.iter();
            images.try_for_each(|image| output::line(transfer::described(image)))
        }
        Command::Export { file, images } => export::run(&client, file, images).await,
        Command::Tag { image, name, force } => {
            let image = tag(&client, image, name, *force).await?;
            output::line(transfer::described(&image))
        }
        Command::Untag { names } => {
            for name in names {
                untag(&client, name).await?;
                output::line(name)?;
            }
            Ok(())
        }
        Command::Rm { images } => remove(&client, images).await,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn credentials(text: &str) -> Result<Credentials> {
    let (username, password) = text
        .split_once(':')
        .context("--creds: not of the form USER:PASSWORD")?;
    Ok(Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

/// Gives an image a name more.
pub(crate) async fn tag(
    client: &Client,
    image: &str,
    name: &str,
    force: bool,
) -> Result<StoredImage> {
    let request = TagImageRequest {
        image: image.to_owned(),
        name: name.to_owned(),
        force,
    };
    match client.node().tag_image(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if status.code() == Code::AlreadyExists => {
            bail!("{}: --force takes the name away from it", status.message())
        }
        Err(status) => Err(told(status)),
    }
}

/// Takes a name away from its image.
pub(crate) async fn untag(client: &Client, name: &str) -> Result<()> {
    let request = UntagImageRequest {
        name: name.to_owned(),
    };
    let answer = client.node().untag_image(request).await;
    answer.map(drop).map_err(told)
}

async fn remove(client: &Client, images: &[String]) -> Result<()> {
    for name in images {
        // To the CRI an image that is not there is removed; a person has mistyped its name.
        if client.image(name).await?.is_none() {
            bail!("there is no image {name}: `crisp image ls` shows those there are");
        }
        let request = v1::RemoveImageRequest {
            image: Some(image_spec(name)),
        };
        client.images().remove_image(request).await.map_err(told)?;
        output::line(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_parted_at_the_first_colon() {
        let given = credentials("user:pass:word").unwrap();
        assert_eq!(
            (given.username.as_str(), given.password.as_str()),
            ("user", "pass:word")
        );
        assert!(credentials("user").is_err());
    }
}
