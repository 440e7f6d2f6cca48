//! Credentials as they may be logged.

use crate::node::v1::Credentials;
use crate::v1::AuthConfig;
use std::fmt;

/// Shows whom the credentials are for and which kinds there are, never the secrets themselves.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .field("password", &Redacted(&self.password))
            .field("auth", &Redacted(&self.auth))
            .field("identity_token", &Redacted(&self.identity_token))
            .field("registry_token", &Redacted(&self.registry_token))
            .finish()
    }
}

/// As [`AuthConfig`]'s: the name, not the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &Redacted(&self.password))
            .finish()
    }
}

struct Redacted<'a>(&'a str);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "none"
        } else {
            "<redacted>"
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::node::v1::Credentials;
    use crate::v1::{AuthConfig, PullImageRequest};

    #[test]
    fn no_secret_shows_in_a_logged_pull() {
        let secret = || "hunter2".to_owned();
        let request = PullImageRequest {
            auth: Some(AuthConfig {
                username: "someone".to_owned(),
                password: secret(),
                auth: secret(),
                identity_token: secret(),
                registry_token: secret(),
                ..AuthConfig::default()
            }),
            ..PullImageRequest::default()
        };
        let shown = format!("{request:?}");
        assert!(
            shown.contains("someone") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn no_secret_shows_in_logged_credentials() {
        let credentials = Credentials {
            username: "someone".to_owned(),
            password: "hunter2".to_owned(),
        };
        let shown = format!("{credentials:?}");
        assert!(
            shown.contains("someone") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
