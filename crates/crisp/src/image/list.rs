//! `crisp image ls`.

use crate::client::{Client, told};
use crate::output;
use crate::text::{Table, bytes, short};
use anyhow::Result;
use crisp_cri_api::v1;

pub(super) async fn run(client: &Client) -> Result<()> {
    let request = v1::ListImagesRequest::default();
    let answer = client.images().list_images(request).await.map_err(told)?;
    output::result(table(&answer.into_inner().images).render(0))
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
}
