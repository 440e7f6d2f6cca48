//! Images by name, and credentials for their registries.

use super::text::{one_line, required};
use super::{Invalid, Parsed};
use crisp_cri_api::v1;
use crisp_image::Reference;
use crisp_model::ImageSpec;

/// An image, which must be named.
pub(crate) fn image_spec(image: Option<v1::ImageSpec>) -> Parsed<ImageSpec> {
    let image = image.ok_or_else(|| Invalid::required("image"))?;
    let name = required(image.image, "image.image")?;
    Ok(ImageSpec {
        image: one_line(name, "image.image")?,
        user_specified_image: image.user_specified_image,
        runtime_handler: image.runtime_handler,
        annotations: image.annotations,
    })
}

/// What an image is called at its registry.
pub(crate) fn reference(name: &str) -> Parsed<Reference> {
    name.parse()
        .map_err(|error: crisp_image::Error| Invalid::new("image", error.to_string()))
}

/// What a client gave to pull with.
pub(crate) fn credentials(auth: v1::AuthConfig) -> crisp_image::Auth {
    crisp_image::Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_must_be_named() {
        let named = |name: &str| {
            image_spec(Some(v1::ImageSpec {
                image: name.to_owned(),
                user_specified_image: "busybox".into(),
                ..Default::default()
            }))
        };
        assert_eq!(named("sha256:ab").unwrap().user_specified_image, "busybox");
        assert_eq!(named("").unwrap_err().field, "image.image");
        assert_eq!(named("a\nb").unwrap_err().field, "image.image");
        assert_eq!(image_spec(None).unwrap_err().field, "image");
    }

    #[test]
    fn a_reference_must_be_well_formed() {
        let complete = reference("busybox").unwrap().to_string();
        assert_eq!(complete, "docker.io/library/busybox:latest");
        let invalid = reference("Busy Box").unwrap_err();
        assert_eq!(invalid.field, "image");
        assert!(invalid.reason.contains("Busy Box"), "{invalid}");
    }
}
