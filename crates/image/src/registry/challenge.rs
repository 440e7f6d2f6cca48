//! What a registry answers when it wants to know who asks (`WWW-Authenticate`, RFC 9110 § 11.6.1), and
//! the token service that it may name (distribution project, "Token Authentication").

use serde::Deserialize;
use std::collections::BTreeMap;

/// A way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// What a token service answers; older ones call it `token`.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenAnswer {
    pub(crate) fn into_token(self) -> Option<String> {
        self.access_token
            .or(self.token)
            .filter(|token| !token.is_empty())
    }
}

/// The challenges of one header that can be met; a token is preferred.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    let challenges = split(header);
    let bearer = challenges.iter().find_map(|(scheme, parameters)| {
        let is_bearer = scheme.eq_ignore_ascii_case("bearer");
        let realm = parameters.get("realm").filter(|_| is_bearer)?.clone();
        Some(Challenge::Bearer {
            realm,
            service: parameters.get("service").cloned(),
            scope: parameters.get("scope").cloned(),
        })
    });
    let is_basic = challenges
        .iter()
        .any(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    bearer.or(is_basic.then_some(Challenge::Basic))
}

type Parameters = BTreeMap<String, String>;

/// Splits `Scheme key=value, key="value", Scheme …`.
fn split(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(['=', ' ', ',', '\t']).unwrap_or(rest.len());
        if end == 0 {
            return challenges;
        }
        let word = &rest[..end];
        rest = rest[end..].trim_start_matches([' ', '\t']);
        match rest.strip_prefix('=') {
            Some(after) => {
                let (value, after) = value(after.trim_start_matches([' ', '\t']));
                rest = after;
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                }
            }
            None => challenges.push((word.to_owned(), Parameters::new())),
        }
    }
}

/// A token or a quoted string, and what is behind it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            char => value.push(char),
        }
    }
    (value, "")
}

/// Encodes one value of a query or a form (WHATWG URL, percent-encoding of all but unreserved
/// characters).
pub(crate) fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: owned(service),
            scope: owned(scope),
        })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (header, wanted) in [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                bearer(
                    "https://auth.example/token",
                    Some("r.example"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (
                r#"bearer realm = "x" , service=y"#,
                bearer("x", Some("y"), None),
            ),
            (
                r#"Basic realm="a \"quoted\", name""#,
                Some(Challenge::Basic),
            ),
            (
                r#"Basic realm="x", Bearer realm="y""#,
                bearer("y", None, None),
            ),
            (r#"Negotiate, Basic realm="x""#, Some(Challenge::Basic)),
            ("Bearer", None),
            ("Negotiate", None),
            ("", None),
            (
                r#"Bearer realm="unterminated"#,
                bearer("unterminated", None, None),
            ),
            ("=x,=", None),
        ] {
            assert_eq!(parse(header), wanted, "{header}");
        }
    }

    #[test]
    fn both_names_of_a_token_are_known() {
        let token = |text: &str| {
            serde_json::from_str::<TokenAnswer>(text)
                .unwrap()
                .into_token()
        };
        assert_eq!(token(r#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(
            token(r#"{"token":"a","access_token":"b","expires_in":60}"#).as_deref(),
            Some("b")
        );
        assert_eq!(token(r#"{"token":""}"#), None);
        assert_eq!(token("{}"), None);
    }

    #[test]
    fn values_cannot_leave_their_place_in_a_query() {
        assert_eq!(
            percent_encode("repository:a/b:pull&x=é"),
            "repository%3Aa%2Fb%3Apull%26x%3D%C3%A9"
        );
    }
}
