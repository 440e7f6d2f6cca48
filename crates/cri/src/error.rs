//! What a failed call is on the wire: one code for each kind of error, and the whole chain of causes
//! as its message, since that is all that reaches the kubelet.

use crate::request::Invalid;
use crisp_cgroup::Error as CgroupError;
use crisp_cni::Error as CniError;
pub(crate) use crisp_engine::chain;
use crisp_engine::{Error as EngineError, Kind};
use crisp_image::Error as ImageError;
use crisp_network::Error as NetworkError;
use tonic::{Code, Status};

/// The start of a message that makes the kubelet wait for the registry rather than blame the image.
/// It looks for it only in errors of the code UNKNOWN (cri-api, package errors).
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable: ";

/// The same for an image that may not be used.
const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed: ";

/// The longest message of an error, in bytes; what clients name in a request may be longer. Escaped it
/// is three times as long, and clients cut a connection on which headers come that are longer than
/// 16 KiB.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// The same for a container whose image volume cannot be mounted.
const IMAGE_VOLUME_MOUNT_FAILED: &str = "ImageVolumeMountFailed: ";

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        status(Code::InvalidArgument, invalid.to_string())
    }
}

/// For `map_err` on a call of the engine.
pub(crate) fn of_engine(error: EngineError) -> Status {
    match &error {
        EngineError::Image(image) => named(image, &error),
        EngineError::ImageVolume { .. } => {
            let message = format!("{IMAGE_VOLUME_MOUNT_FAILED}{}", chain(&error));
            status(engine_code(&error), message)
        }
        _ => status(engine_code(&error), chain(&error)),
    }
}

/// For `map_err` on a call of the images.
pub(crate) fn of_image(error: ImageError) -> Status {
    named(&error, &error)
}

/// An error of the images, with the name in front that the kubelet knows it by.
fn named(error: &ImageError, shown: &dyn std::error::Error) -> Status {
    let name = kubelet_name(error);
    status(image_code(error), format!("{name}{}", chain(shown)))
}

/// A failure with a message that reaches the client.
fn status(code: Code, mut message: String) -> Status {
    if message.len() > MESSAGE_BYTES_MAX {
        let mut ends = (0..=MESSAGE_BYTES_MAX).rev();
        let end = ends.find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    Status::new(code, message)
}

fn engine_code(error: &EngineError) -> Code {
    match error {
        EngineError::NotFound { kind, .. } => not_found(*kind),
        EngineError::UnknownToShim(_) => Code::NotFound,
        EngineError::Ambiguous { .. } | EngineError::Invalid { .. } => Code::InvalidArgument,
        EngineError::AlreadyExists { .. } => Code::AlreadyExists,
        EngineError::FailedPrecondition(_)
        | EngineError::NotExecutable(_)
        | EngineError::Unsupported(_) => Code::FailedPrecondition,
        EngineError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        EngineError::Exhausted(_) => Code::ResourceExhausted,
        EngineError::Image(error) => image_code(error),
        EngineError::ImageVolume { .. } => Code::Unknown,
        EngineError::Network(error) => network_code(error),
        EngineError::Cni(error) => cni_code(error),
        EngineError::Cgroup(error) => cgroup_code(error),
        EngineError::Shim(_) | EngineError::Io { .. } | EngineError::Internal(_) => Code::Internal,
    }
}

/// NOT_FOUND tells the kubelet that a pod or container is gone; a handler was never there.
fn not_found(kind: Kind) -> Code {
    match kind {
        Kind::Pod | Kind::Container | Kind::Image => Code::NotFound,
        Kind::Handler => Code::InvalidArgument,
    }
}

fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::NotFound { .. } => Code::NotFound,
        ImageError::InvalidReference { .. } | ImageError::Ambiguous { .. } => Code::InvalidArgument,
        ImageError::Unauthorized { .. } => Code::PermissionDenied,
        ImageError::RegistryUnavailable { .. } | ImageError::NotVerified { .. } => Code::Unknown,
        ImageError::Corrupt { .. } => Code::DataLoss,
        ImageError::Refused { .. }
        | ImageError::InvalidConfig { .. }
        | ImageError::NoSuchPath { .. }
        | ImageError::NoQuotas { .. }
        | ImageError::SnapshotExists { .. } => Code::FailedPrecondition,
        ImageError::NameTaken { .. } => Code::AlreadyExists,
        ImageError::NoSpace { .. } => Code::ResourceExhausted,
        ImageError::Io { .. } => Code::Internal,
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::InvalidCidr { .. }
        | NetworkError::InvalidHostIp { .. }
        | NetworkError::NoHostPorts { .. }
        | NetworkError::NoBandwidth { .. } => Code::InvalidArgument,
        NetworkError::Exhausted { .. } => Code::ResourceExhausted,
        NetworkError::PortConflict { .. }
        | NetworkError::AlreadyInUse { .. }
        | NetworkError::InUse { .. }
        | NetworkError::NotABridge { .. }
        | NetworkError::NoUplink { .. }
        | NetworkError::InvalidSetting { .. } => Code::FailedPrecondition,
        NetworkError::NotReady(_) | NetworkError::ShutDown => Code::Unavailable,
        NetworkError::Kernel { .. } | NetworkError::Io { .. } => Code::Internal,
    }
}

fn cni_code(error: &CniError) -> Code {
    match error {
        CniError::InvalidRequest { .. } => Code::InvalidArgument,
        CniError::NoConfig { .. } | CniError::InvalidConfig { .. } | CniError::NoPlugin { .. } => {
            Code::Unavailable
        }
        CniError::Refused { refusal, .. } if refusal.is_temporary() => Code::Unavailable,
        CniError::TimedOut { .. } => Code::DeadlineExceeded,
        CniError::Refused { .. }
        | CniError::Failed { .. }
        | CniError::Helper { .. }
        | CniError::Io { .. } => Code::Internal,
    }
}

fn cgroup_code(error: &CgroupError) -> Code {
    match error {
        CgroupError::InvalidPath { .. }
        | CgroupError::InvalidLimit { .. }
        | CgroupError::Refused { .. } => Code::InvalidArgument,
        CgroupError::NoCgroups | CgroupError::Unsupported { .. } | CgroupError::NotFound { .. } => {
            Code::FailedPrecondition
        }
        CgroupError::DeviceFilter { .. }
        | CgroupError::Busy { .. }
        | CgroupError::Io { .. }
        | CgroupError::Malformed { .. } => Code::Internal,
    }
}

fn kubelet_name(error: &ImageError) -> &'static str {
    match error {
        ImageError::RegistryUnavailable { .. } => REGISTRY_UNAVAILABLE,
        ImageError::NotVerified { .. } => SIGNATURE_VALIDATION_FAILED,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn not_found(kind: Kind) -> EngineError {
        EngineError::NotFound {
            kind,
            id: "abc".to_owned(),
        }
    }

    #[test]
    fn each_kind_of_error_has_the_code_that_the_kubelet_expects() {
        for (error, code) in [
            (not_found(Kind::Pod), Code::NotFound),
            (not_found(Kind::Container), Code::NotFound),
            (not_found(Kind::Image), Code::NotFound),
            (not_found(Kind::Handler), Code::InvalidArgument),
            (
                EngineError::UnknownToShim("no exec \"abc\"".to_owned()),
                Code::NotFound,
            ),
            (
                EngineError::Ambiguous {
                    kind: Kind::Pod,
                    prefix: "a".to_owned(),
                },
                Code::InvalidArgument,
            ),
            (
                EngineError::DeadlineExceeded {
                    what: "the command".to_owned(),
                    after_ms: 1000,
                },
                Code::DeadlineExceeded,
            ),
            (
                EngineError::Exhausted("no address is left".to_owned()),
                Code::ResourceExhausted,
            ),
            (
                EngineError::NotExecutable("/nosuch: no such file".to_owned()),
                Code::FailedPrecondition,
            ),
            (EngineError::Internal("bug".to_owned()), Code::Internal),
        ] {
            let status = of_engine(error.clone());
            assert_eq!(status.code(), code, "{error}");
            assert_eq!(status.message(), error.to_string());
        }
    }

    #[test]
    fn a_message_tells_every_cause() {
        let error = EngineError::Io {
            op: "read",
            path: "/run/crisp/x".into(),
            source: Arc::new(std::io::Error::other("the disk is gone")),
        };
        let status = of_engine(error);
        assert_eq!(status.message(), "read /run/crisp/x: the disk is gone");
        assert_eq!(status.code(), Code::Internal);
    }

    #[test]
    fn the_kubelet_finds_its_name_at_the_start_of_an_unknown_error() {
        let unavailable = ImageError::RegistryUnavailable {
            registry: "r.example".to_owned(),
            reason: "the reason".to_owned(),
        };
        let not_verified = ImageError::NotVerified {
            reference: "r.example/app:1".to_owned(),
            verifier: "/opt/verifier".into(),
            reason: "the reason".to_owned(),
        };
        for (error, name) in [
            (unavailable, "RegistryUnavailable: "),
            (not_verified, "SignatureValidationFailed: "),
        ] {
            for status in [of_image(error.clone()), of_engine(error.clone().into())] {
                assert_eq!(status.code(), Code::Unknown);
                let message = status.message();
                assert!(message.starts_with(name), "{message}");
                assert!(message.ends_with("the reason"), "{message}");
            }
        }
    }

    #[test]
    fn the_kubelet_finds_the_name_of_an_image_volume_that_fails() {
        let missing = ImageError::NoSuchPath {
            image: "sha256:ab".to_owned(),
            path: "weights".to_owned(),
        };
        let status = of_engine(EngineError::ImageVolume {
            container_path: "/model".to_owned(),
            source: Arc::new(missing),
        });
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(
            status.message(),
            "ImageVolumeMountFailed: image volume at /model: \
             image sha256:ab has no file or directory \"weights\""
        );
    }

    #[test]
    fn a_refused_field_is_the_callers_fault() {
        let status = Status::from(Invalid::new("config.metadata.name", "is required"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "config.metadata.name: is required");
    }

    #[test]
    fn a_message_is_cut_where_clients_would_not_take_it() {
        let long = Invalid::new("hostname", "é".repeat(MESSAGE_BYTES_MAX));
        let message = Status::from(long).message().to_owned();
        assert!(message.starts_with("hostname: é") && message.ends_with('…'));
        assert!(message.len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
    }
}
