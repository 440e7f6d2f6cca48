//! What clients send, as the model says it: pure functions that refuse what is malformed and name
//! the field. Whether a well-formed request can be granted is the engine's to say.

mod container;
mod image;
mod namespaces;
mod pod;
mod resources;
mod security;
mod text;

pub(crate) use container::{command, container_config};
pub(crate) use image::{credentials, image_spec, reference};
pub(crate) use pod::{pod_cidrs, pod_config, ports};
pub(crate) use resources::{limits, update};

use std::time::Duration;
use text::id;

/// A request that is refused: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Invalid {
    pub(crate) field: String,
    pub(crate) reason: String,
}

/// The result of reading a part of a request.
pub(crate) type Parsed<T> = Result<T, Invalid>;

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    fn required(field: impl Into<String>) -> Self {
        Self::new(field, "is required")
    }
}

/// Names the message that a refused field belongs to.
trait Within {
    fn within(self, parent: &str) -> Self;
}

impl<T> Within for Parsed<T> {
    fn within(self, parent: &str) -> Self {
        self.map_err(|invalid| Invalid {
            field: format!("{parent}.{}", invalid.field),
            ..invalid
        })
    }
}

/// The value of an enumeration, which the wire carries as any number.
fn known<E: TryFrom<i32>>(value: i32, field: &str) -> Parsed<E> {
    E::try_from(value).map_err(|_| Invalid::new(field, format!("{value} is not one of its values")))
}

/// The id of a pod, or the beginning of one. An empty one would begin every id.
pub(crate) fn pod_id(given: &str) -> Parsed<&str> {
    id(given, "pod_sandbox_id")
}

/// The id of a container, or the beginning of one.
pub(crate) fn container_id(given: &str) -> Parsed<&str> {
    id(given, "container_id")
}

/// The id of either, or the beginning of one.
pub(crate) fn any_id(given: &str) -> Parsed<&str> {
    id(given, "id")
}

/// A time to wait, in seconds.
pub(crate) fn timeout(seconds: i64) -> Parsed<Duration> {
    let seconds = u64::try_from(seconds)
        .map_err(|_| Invalid::new("timeout", format!("{seconds} s is negative")))?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_timeouts_are_checked() {
        assert_eq!(pod_id("abc").unwrap(), "abc");
        assert_eq!(
            pod_id("").unwrap_err().to_string(),
            "pod_sandbox_id: is required"
        );
        assert_eq!(container_id("").unwrap_err().field, "container_id");
        assert_eq!(timeout(3).unwrap(), Duration::from_secs(3));
        assert_eq!(
            timeout(-1).unwrap_err().to_string(),
            "timeout: -1 s is negative"
        );
    }
}
