//! `crisp image`: images on the node.

mod list;
pub(crate) mod progress;
mod transfer;

pub(crate) use transfer::fetch;

use crate::client::{Client, Target, image_spec, told};
use crate::output;
use anyhow::{Context, Result, bail};
use crisp_cri_api::node::v1::Credentials;
use crisp_cri_api::v1;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List images.
    Ls,
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
    /// Remove images, each with all its names.
    Rm {
        /// References or ids.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    Client::with(target, async |client| match &arguments.command {
        Command::Ls => list::run(&client).await,
        Command::Pull { image, creds } => {
            let credentials = creds.as_deref().map(credentials).transpose()?;
            transfer::pull(&client, image, credentials).await
        }
        Command::Import { file } => transfer::import(&client, file).await,
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
