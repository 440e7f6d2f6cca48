//! Choosing among the images of an index the one that runs here.

use crate::manifest::Descriptor;
use serde::{Deserialize, Serialize};

/// What an image runs on, in Go's words (OCI image spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An architecture and the variants of it that run here, the best first. An empty variant is the plain
/// architecture.
type Candidate = (&'static str, &'static [&'static str]);

/// The best of several descriptors for this machine.
pub(crate) fn choose(descriptors: &[Descriptor]) -> Option<&Descriptor> {
    best(descriptors, candidates())
}

/// The name of what is looked for, for messages.
pub(crate) fn name() -> String {
    format!(
        "linux/{}",
        candidates()
            .first()
            .map_or("unknown", |candidate| candidate.0)
    )
}

fn best<'a>(descriptors: &'a [Descriptor], candidates: &[Candidate]) -> Option<&'a Descriptor> {
    let wanted = candidates.iter().flat_map(|(architecture, variants)| {
        variants
            .iter()
            .map(move |variant| (*architecture, *variant))
    });
    for (architecture, variant) in wanted {
        let runs = |platform: &Platform| {
            platform.os == "linux"
                && platform.architecture == architecture
                && platform.variant.as_deref().unwrap_or_default() == variant
        };
        if let Some(found) = descriptors
            .iter()
            .find(|d| d.platform.as_ref().is_some_and(runs))
        {
            return Some(found);
        }
    }
    // An index of an archive may not name platforms at all.
    descriptors
        .iter()
        .find(|descriptor| descriptor.platform.is_none())
}

/// A plain image is preferred to one for newer processors, which not every host of its kind runs.
fn candidates() -> &'static [Candidate] {
    match std::env::consts::ARCH {
        "x86_64" => &[("amd64", &["", "v1"]), ("386", &[""])],
        "aarch64" => &[("arm64", &["v8", ""])],
        "arm" => &[("arm", &["v7", "v6", "", "v5"])],
        "riscv64" => &[("riscv64", &[""])],
        "powerpc64" => &[("ppc64le", &[""])],
        "s390x" => &[("s390x", &[""])],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn descriptor(architecture: &str, os: &str, variant: Option<&str>) -> Descriptor {
        let platform = Platform {
            architecture: architecture.into(),
            os: os.into(),
            variant: variant.map(str::to_owned),
        };
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(format!("{platform:?}").as_bytes()),
            size_bytes: 1,
            platform: Some(platform),
            annotations: None,
        }
    }

    #[test]
    fn the_best_variant_for_the_machine_is_chosen() {
        let arm: &[Candidate] = &[("arm", &["v7", "v6", ""])];
        let descriptors = [
            descriptor("unknown", "unknown", None),
            descriptor("arm", "windows", Some("v7")),
            descriptor("amd64", "linux", None),
            descriptor("arm", "linux", Some("v6")),
            descriptor("arm", "linux", Some("v7")),
            descriptor("arm", "linux", Some("v8")),
        ];
        assert_eq!(best(&descriptors, arm), Some(&descriptors[4]));
        assert_eq!(best(&descriptors[..4], arm), Some(&descriptors[3]));
        assert_eq!(best(&descriptors[..3], arm), None);
        assert_eq!(best(&[], arm), None);
    }

    #[test]
    fn an_index_without_platforms_gives_its_first() {
        let mut only = descriptor("", "", None);
        only.platform = None;
        assert_eq!(choose(std::slice::from_ref(&only)), Some(&only));
    }
}
