//! Credentials for a registry, and which host may see them.

use crate::reference::split_port;
use crate::{Error, Reference};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// What a client gave to pull an image with (CRI `AuthConfig`); empty fields were not given.
///
/// It is for `server_address`, or for the registry of the reference when that is empty. It goes to that
/// host and to the token service that this host itself names, never to a mirror and never along a
/// redirect.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Auth {
    pub username: String,
    pub password: String,
    /// Base64 of `username:password`; used when `username` is empty.
    pub auth: String,
    /// Exchanged for an access token (OAuth2 refresh token).
    pub identity_token: String,
    /// Sent to the registry as it is.
    pub registry_token: String,
    pub server_address: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Credentials in the one form that will be used.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Basic { username: String, password: String },
    Identity(String),
    Registry(String),
}

impl Auth {
    /// The credentials, if there are any and they are for the host that `reference` names.
    pub(crate) fn for_reference(
        &self,
        reference: &Reference,
    ) -> Result<Option<Credentials>, Error> {
        if !self.server_address.is_empty()
            && !same_registry(&self.server_address, reference.registry())
        {
            return Ok(None);
        }
        if !self.registry_token.is_empty() {
            return Ok(Some(Credentials::Registry(self.registry_token.clone())));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Credentials::Identity(self.identity_token.clone())));
        }
        let (username, password) = if !self.username.is_empty() {
            (self.username.clone(), self.password.clone())
        } else if !self.auth.is_empty() {
            decode(&self.auth).ok_or_else(|| Error::Unauthorized {
                registry: reference.registry().to_owned(),
                repository: reference.repository().to_owned(),
                reason: "the `auth` that was given is not base64 of `username:password`".to_owned(),
            })?
        } else {
            return Ok(None);
        };
        Ok(Some(Credentials::Basic { username, password }))
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

/// Whether a server address (`host`, `host:port` or a URL, as docker's configuration files hold it) is
/// that of `registry`.
fn same_registry(server_address: &str, registry: &str) -> bool {
    let (scheme, rest) = match server_address.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("https", server_address),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    canonical(scheme, authority) == canonical(scheme, registry)
}

fn canonical(scheme: &str, authority: &str) -> String {
    let (host, port) = split_port(authority);
    let host = match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    };
    let default_port = if scheme == "http" { "80" } else { "443" };
    format!("{host}:{}", port.unwrap_or(default_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn credentials_are_for_the_registry_of_the_reference_or_the_one_they_name() {
        let anywhere = Auth {
            username: "u".into(),
            password: "p".into(),
            ..Auth::default()
        };
        assert!(
            anywhere
                .for_reference(&reference("r.example/a"))
                .unwrap()
                .is_some()
        );

        for address in [
            "https://index.docker.io/v1/",
            "docker.io",
            "registry-1.docker.io:443",
        ] {
            let auth = Auth {
                server_address: address.into(),
                ..anywhere.clone()
            };
            assert!(
                auth.for_reference(&reference("busybox")).unwrap().is_some(),
                "{address}"
            );
            assert!(
                auth.for_reference(&reference("r.example/a"))
                    .unwrap()
                    .is_none(),
                "{address}"
            );
        }
        let auth = Auth {
            server_address: "r.example".into(),
            ..anywhere
        };
        assert!(
            auth.for_reference(&reference("r.example:5000/a"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn every_form_of_credentials_is_understood() {
        let basic = Auth {
            auth: STANDARD.encode("u:p:q"),
            ..Auth::default()
        };
        let wanted = Credentials::Basic {
            username: "u".into(),
            password: "p:q".into(),
        };
        assert!(basic.for_reference(&reference("a")).unwrap() == Some(wanted));

        let token = Auth {
            identity_token: "t".into(),
            ..Auth::default()
        };
        assert!(
            token.for_reference(&reference("a")).unwrap()
                == Some(Credentials::Identity("t".into()))
        );

        let token = Auth {
            registry_token: "t".into(),
            username: "u".into(),
            ..Auth::default()
        };
        assert!(
            token.for_reference(&reference("a")).unwrap()
                == Some(Credentials::Registry("t".into()))
        );

        assert!(
            Auth::default()
                .for_reference(&reference("a"))
                .unwrap()
                .is_none()
        );
        let broken = Auth {
            auth: "%%".into(),
            ..Auth::default()
        };
        assert!(matches!(
            broken.for_reference(&reference("a")),
            Err(Error::Unauthorized { .. })
        ));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let auth = Auth {
            username: "someone".into(),
            password: "secret".into(),
            ..Auth::default()
        };
        let shown = format!("{auth:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("someone"),
            "{shown}"
        );
    }
}
