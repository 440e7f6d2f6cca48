//! `crisp image ls`.

use crate::client::{Client, told};
use crate::output;
use crate::text::{Table, bytes, short};
use anyhow::Result;
use crisp_cri_api::v1;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print ids alone.
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Print JSON, an object for each image.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments, client: &Client) -> Result<()> {
    let images = all(client).await?;
    output::result(match arguments {
        Arguments { quiet: true, .. } => {
            images.iter().map(|image| image.id.clone() + "\n").collect()
        }
        Arguments { json: true, .. } => json(&images)?,
        _ => table(&images).render(0),
    })
}

/// All images of the node, by their ids.
pub(crate) async fn all(client: &Client) -> Result<Vec<v1::Image>> {
    let request = v1::ListImagesRequest::default();
    let answer = client.images().list_images(request).await.map_err(told)?;
    Ok(answer.into_inner().images)
}

fn json(images: &[v1::Image]) -> Result<String> {
    let object = |image: &v1::Image| {
        json!({
            "id": image.id,
            "tags": image.repo_tags,
            "digests": image.repo_digests,
            "sizeBytes": image.size,
            "pinned": image.pinned,
        })
    };
    let objects: Vec<Value> = images.iter().map(object).collect();
    Ok(serde_json::to_string_pretty(&objects)? + "\n")
}

/// A line for each name.
fn table(images: &[v1::Image]) -> Table {
    let mut rows: Vec<[String; 4]> = images.iter().flat_map(rows).collect();
    rows.sort();
    let mut table = Table::titled(&["IMAGE", "ID", "SIZE", ""]);
    rows.into_iter().for_each(|row| table.row(row));
    table
}

fn rows(image: &v1::Image) -> Vec<[String; 4]> {
    let names = match (image.repo_tags.as_slice(), image.repo_digests.as_slice()) {
        ([], []) => &["-".to_owned()][..],
        ([], digests) => digests,
        (tags, _) => tags,
    };
    let pinned = if image.pinned { "pinned" } else { "" };
    let row = |name: &String| {
        [
            name.clone(),
            short(&image.id).to_owned(),
            bytes(image.size),
            pinned.to_owned(),
        ]
    };
    names.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_line() {
        let image = |tags: &[&str], digests: &[&str]| v1::Image {
            id: "sha256:0123456789abcdef".to_owned(),
            repo_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            repo_digests: digests.iter().map(|t| (*t).to_owned()).collect(),
            size: 2 << 20,
            ..Default::default()
        };
        let text = table(&[
            image(&["b:1", "a:1"], &["a@x"]),
            image(&[], &["c@y"]),
            image(&[], &[]),
        ])
        .render(0);
        let lines: Vec<_> = text
            .lines()
            .skip(1)
            .map(|l| l.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(lines, ["-", "a:1", "b:1", "c@y"]);
        assert!(text.contains("0123456789ab   2 MiB\n"), "{text}");
    }

    #[test]
    fn programs_read_all_names_of_an_image_at_once() {
        let image = v1::Image {
            id: "sha256:01".to_owned(),
            repo_tags: vec!["a:1".to_owned(), "b:1".to_owned()],
            size: 5,
            pinned: true,
            ..Default::default()
        };
        let read: Value = serde_json::from_str(&json(&[image]).unwrap()).unwrap();
        let expected = json!([{
            "id": "sha256:01", "tags": ["a:1", "b:1"], "digests": [], "sizeBytes": 5, "pinned": true,
        }]);
        assert_eq!(read, expected);
    }
}
