//! Where a redirect leads, and whether that is still the same host.

use super::answer::Failure;
use http::header::LOCATION;
use http::uri::PathAndQuery;
use http::{Response, Uri};
use hyper::body::Incoming;

/// Whether both have the same scheme, host and port.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |url: &Uri| {
        url.port_u16()
            .unwrap_or(if url.scheme_str() == Some("http") {
                80
            } else {
                443
            })
    };
    let host = |url: &Uri| url.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Where an answer sends us, if it does. Never from https to http.
pub(super) fn redirect(response: &Response<Incoming>, from: &Uri) -> Result<Option<Uri>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| resolve(from, location));
    let to = to.ok_or_else(|| Failure::Unavailable("it redirects to nowhere".to_owned()))?;
    match (from.scheme_str(), to.scheme_str()) {
        (Some("http"), Some("http" | "https")) | (_, Some("https")) => Ok(Some(to)),
        _ => Err(Failure::Unavailable(
            "it redirects from https to something else".to_owned(),
        )),
    }
}

/// A reference as a URL, seen from another (RFC 3986, § 5.2, without dot segments).
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    if location.contains("://") {
        return location.parse().ok();
    }
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{}://{rest}", base.scheme_str()?).parse().ok();
    }
    let mut parts = base.clone().into_parts();
    let path = if location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with('?') {
        format!("{}{location}", base.path())
    } else {
        let directory = base
            .path()
            .rfind('/')
            .map_or("", |slash| &base.path()[..slash]);
        format!("{directory}/{location}")
    };
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_seen_from_where_they_were_given() {
        let base = uri("https://r.example:444/v2/a/blobs/x?y=z");
        for (location, wanted) in [
            ("https://cdn.example/b?c=d#e", "https://cdn.example/b?c=d"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("/b?c", "https://r.example:444/b?c"),
            ("b", "https://r.example:444/v2/a/blobs/b"),
            ("?b", "https://r.example:444/v2/a/blobs/x?b"),
        ] {
            assert_eq!(resolve(&base, location), Some(uri(wanted)), "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let own = uri("https://r.example/v2/");
        assert!(same_origin(&own, &uri("https://R.example:443/x")));
        for other in [
            "http://r.example/",
            "https://r.example:444/",
            "https://r.example.org/",
        ] {
            assert!(!same_origin(&own, &uri(other)), "{other}");
        }
    }
}
