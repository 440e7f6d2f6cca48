//! `ctr images`.

use super::SNAPSHOTTER;
use crate::client::Client;
use crate::image::{self, export, list, transfer};
use crate::output;
use crate::text::{Table, bytes};
use anyhow::{Context, Result, bail};
use crisp_cri_api::v1;
use std::path::PathBuf;

/// What all images here are, as containerd tells it.
const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A label of containerd's that keeps an image from the kubelet's collection.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List images, a line for each name.
    #[command(alias = "list")]
    Ls(Ls),
    /// Take in the images of an archive.
    Import(Import),
    /// Write images into an archive.
    Export(Export),
    /// Give an image names more.
    Tag(Tag),
    /// Take names away from images; an image goes with its last one.
    #[command(aliases = ["remove", "delete", "del"])]
    Rm(Rm),
    /// Fetch an image from its registry.
    Pull(Pull),
}

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    /// Print names alone.
    #[arg(short, long)]
    quiet: bool,
    /// `name==NAME`; of several one has to hold.
    filters: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    #[command(flatten)]
    platforms: Platforms,
    #[command(flatten)]
    ignored: Ignored,
    /// Not kept.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// The archive; - is standard input.
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    platforms: Platforms,
    #[command(flatten)]
    ignored: Ignored,
    /// Where to; - is standard output.
    file: PathBuf,
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Tag {
    /// Take the name away from another image that has it.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    ignored: Ignored,
    image: String,
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// As always.
    #[arg(long)]
    sync: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Pull {
    #[command(flatten)]
    platforms: Platforms,
    #[command(flatten)]
    ignored: Ignored,
    image: String,
}

/// For which machines: this one, in any case.
#[derive(Debug, clap::Args)]
struct Platforms {
    /// Those that are for this machine.
    #[arg(long)]
    all_platforms: bool,
    /// Has to be this machine's.
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Vec<String>,
    /// Has to be overlayfs.
    #[arg(long)]
    snapshotter: Option<String>,
}

/// What makes no difference here.
#[derive(Debug, clap::Args)]
struct Ignored {
    /// Ignored: an image without a name has its id.
    #[arg(long)]
    digests: bool,
    /// Ignored: images are always unpacked.
    #[arg(long)]
    no_unpack: bool,
    /// Ignored.
    #[arg(long)]
    local: bool,
}

pub(super) async fn run(command: &Command, client: &Client) -> Result<()> {
    match command {
        Command::Ls(ls) => {
            let filters = filters(&ls.filters)?;
            output::result(listed(&list::all(client).await?, &filters, ls.quiet))
        }
        Command::Import(import) => self::import(import, client).await,
        Command::Export(export) => {
            export.platforms.check()?;
            export::run(client, &export.file, &export.images).await
        }
        Command::Tag(tag) => {
            for name in &tag.names {
                image::tag(client, &tag.image, name, tag.force).await?;
                output::line(name)?;
            }
            Ok(())
        }
        Command::Rm(rm) => {
            for name in &rm.names {
                image::untag(client, name).await?;
                output::line(name)?;
            }
            Ok(())
        }
        Command::Pull(pull) => self::pull(pull, client).await,
    }
}

async fn import(import: &Import, client: &Client) -> Result<()> {
    import.platforms.check()?;
    for label in &import.label {
        output::note(format_args!("{label} is not kept{}", advice(label)));
    }
    for image in transfer::import(client, &import.file).await? {
        for name in &image.names {
            output::line(format_args!("unpacking {name} ({})...done", image.id))?;
        }
    }
    Ok(())
}

fn advice(label: &str) -> &'static str {
    match label {
        PINNED => ": `pinned` in the section [image] of crisp's configuration names such images",
        _ => "",
    }
}

pub(super) async fn pull(pull: &Pull, client: &Client) -> Result<()> {
    pull.platforms.check()?;
    let image = image::fetch(client, &pull.image, None).await?;
    output::line(image.id)
}

impl Platforms {
    fn check(&self) -> Result<()> {
        if let Some(other) = self
            .snapshotter
            .as_ref()
            .filter(|name| *name != SNAPSHOTTER)
        {
            bail!("there is no snapshotter {other:?} but {SNAPSHOTTER}");
        }
        let here = platform();
        let is_other = |given: &&String| !is_platform(given, &here);
        match self.platform.iter().find(is_other) {
            Some(other) => bail!("{other:?}: images are for {here} here"),
            None => Ok(()),
        }
    }
}

/// Whether what is given, with or without a variant of the processor, is this platform.
fn is_platform(given: &str, here: &str) -> bool {
    let variant = given.strip_prefix(here);
    variant.is_some_and(|variant| variant.is_empty() || variant.starts_with('/'))
}

/// This machine's, in Go's words.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{architecture}")
}

/// The names that a list is asked for; none: all.
fn filters(given: &[String]) -> Result<Vec<&str>> {
    let parsed = given.iter().map(|filter| {
        let name = filter.strip_prefix("name==").with_context(|| {
            format!("{filter:?} is no filter of the form name==NAME, which alone is known")
        })?;
        Ok(name.trim_matches('"'))
    });
    parsed.collect()
}

/// A line for each name of each image. As its digest it has the image's id, which is what tools know an
/// image by that they have built elsewhere.
fn listed(images: &[v1::Image], wanted: &[&str], quiet: bool) -> String {
    let mut rows: Vec<(&String, &v1::Image)> = images
        .iter()
        .flat_map(|image| {
            let names = image.repo_tags.iter().chain(&image.repo_digests);
            names.map(move |name| (name, image))
        })
        .filter(|(name, _)| wanted.is_empty() || wanted.contains(&name.as_str()))
        .collect();
    rows.sort_by_key(|(name, _)| *name);
    if quiet {
        return rows.iter().map(|(name, _)| format!("{name}\n")).collect();
    }
    let mut table = Table::titled(&["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]);
    for (name, image) in rows {
        table.row([
            name.clone(),
            MEDIA_TYPE.to_owned(),
            image.id.clone(),
            bytes(image.size),
            platform(),
            if image.pinned { PINNED } else { "-" }.to_owned(),
        ]);
    }
    table.render(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_for_this_machine() {
        let platforms = |platform: &str, snapshotter: Option<&str>| Platforms {
            all_platforms: true,
            platform: vec![platform.to_owned()],
            snapshotter: snapshotter.map(str::to_owned),
        };
        let here = platform();
        assert!(platforms(&here, Some("overlayfs")).check().is_ok());
        assert!(platforms(&format!("{here}/v1"), None).check().is_ok());
        for (platform, snapshotter) in [
            ("windows/amd64", None),
            ("linux/other", None),
            (here.as_str(), Some("native")),
        ] {
            let refused = platforms(platform, snapshotter).check();
            assert!(refused.is_err(), "{platform} {snapshotter:?}");
        }
        assert!(!is_platform("linux/amd64x", "linux/amd64"));
    }

    #[test]
    fn a_list_has_a_line_for_each_name_that_is_wanted() {
        let image = v1::Image {
            id: "sha256:01".to_owned(),
            repo_tags: vec!["b:1".to_owned(), "a:1".to_owned()],
            repo_digests: vec!["a@sha256:02".to_owned()],
            pinned: true,
            ..Default::default()
        };
        let images = [image];
        assert_eq!(listed(&images, &[], true), "a:1\na@sha256:02\nb:1\n");
        let given = ["name==b:1", "name==\"c:1\""].map(str::to_owned);
        let wanted = filters(&given).unwrap();
        assert_eq!(wanted, ["b:1", "c:1"]);
        let text = listed(&images, &wanted, false);
        assert!(text.lines().count() == 2 && text.contains("sha256:01") && text.contains(PINNED));
        assert!(filters(&["labels.x==y".to_owned()]).is_err());
    }
}
