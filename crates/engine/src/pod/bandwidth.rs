//! The bandwidth that a pod asks for by its annotations.

use crate::error::{Error, Result};
use crisp_model::{InvalidQuantity, Quantity, StringMap};
use crisp_network::Bandwidth;
use std::num::NonZeroU64;

/// The rates of a pod's traffic, in bits per second, as the kubelet's own plugin had them.
pub(super) const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What may be asked for, as Kubernetes checks it: 1k to 1P.
const BITS_PER_S_MIN: u64 = 1_000;
const BITS_PER_S_MAX: u64 = 1_000_000_000_000_000;

/// What a pod's annotations say of it.
pub(super) fn asked(annotations: &StringMap) -> Result<Bandwidth> {
    Ok(Bandwidth {
        to_pod: rate(annotations, INGRESS)?,
        from_pod: rate(annotations, EGRESS)?,
    })
}

fn rate(annotations: &StringMap, annotation: &str) -> Result<Option<NonZeroU64>> {
    let Some(text) = annotations.get(annotation) else {
        return Ok(None);
    };
    let invalid = |reason| Error::invalid(format!("annotations[{annotation}]"), reason);
    let rate: Quantity = text
        .parse()
        .map_err(|error: InvalidQuantity| invalid(error.to_string()))?;
    match rate.whole() {
        bits if (BITS_PER_S_MIN..=BITS_PER_S_MAX).contains(&bits) => Ok(NonZeroU64::new(bits)),
        _ => Err(invalid(format!(
            "{text} is not within 1k to 1P bits per second"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_its_own_annotation() {
        let annotations = StringMap::from([(INGRESS.to_owned(), "10M".to_owned())]);
        let limits = Bandwidth {
            to_pod: NonZeroU64::new(10_000_000),
            from_pod: None,
        };
        assert_eq!(asked(&annotations).unwrap(), limits);
        assert!(asked(&StringMap::default()).unwrap().is_unlimited());
    }

    #[test]
    fn bandwidths_that_make_no_sense_are_refused_by_their_annotation() {
        for bad in ["", "fast", "-1M", "1", "2P", "1M;x"] {
            let annotations = StringMap::from([(EGRESS.to_owned(), bad.to_owned())]);
            let error = asked(&annotations).unwrap_err().to_string();
            assert!(error.contains(EGRESS), "{error}");
        }
    }
}
