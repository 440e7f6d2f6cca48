//! What a client's request asks for, and whether it can have that: HTTP headers, no I/O.
//!
//! SPDY: `Upgrade: SPDY/3.1` and the versions the client knows in `X-Stream-Protocol-Version`, best
//! first. WebSocket: RFC 6455, section 4.2, with the versions in `Sec-WebSocket-Protocol`.

use crate::status::StatusForm;
use crate::tokens::Purpose;
use crate::websocket::channel::Codec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
/// Appended to a client's key before it is hashed (RFC 6455, section 1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What connections speak after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Exec and attach over SPDY.
    SpdyCommand(CommandVersion),
    /// Port-forward over SPDY.
    SpdyForward,
    /// The same, with SPDY in the messages of a WebSocket.
    TunnelledForward,
    /// The channels of a WebSocket.
    Channels(ChannelVersion),
}

/// A version of exec and attach over SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandVersion {
    pub(crate) status: StatusForm,
    /// Whether there is a stream for the size of a terminal.
    pub(crate) resize: bool,
}

/// A version of a WebSocket with channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelVersion {
    pub(crate) codec: Codec,
    pub(crate) status: StatusForm,
    /// Whether the client can close a channel.
    pub(crate) half_close: bool,
}

/// What to speak, and the headers of the answer that says so.
#[derive(Debug)]
pub(crate) struct Agreement {
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
}

/// Why a request is not granted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            headers: Vec::new(),
        }
    }
}

type Versions = &'static [(&'static str, Protocol)];

/// Best first, as they are told to clients who know none of them.
const SPDY_COMMAND: Versions = &[
    ("v4.channel.k8s.io", command(StatusForm::Json, true)),
    ("v3.channel.k8s.io", command(StatusForm::Text, true)),
    ("v2.channel.k8s.io", command(StatusForm::Text, false)),
    ("channel.k8s.io", command(StatusForm::Text, false)),
];
const SPDY_FORWARD: Versions = &[("portforward.k8s.io", Protocol::SpdyForward)];
/// The empty name stands for a client that names none.
const WEBSOCKET_COMMAND: Versions = &[
    (
        "v5.channel.k8s.io",
        channels(Codec::Binary, StatusForm::Json, true),
    ),
    (
        "v4.channel.k8s.io",
        channels(Codec::Binary, StatusForm::Json, false),
    ),
    (
        "v4.base64.channel.k8s.io",
        channels(Codec::Base64, StatusForm::Json, false),
    ),
    (
        "channel.k8s.io",
        channels(Codec::Binary, StatusForm::Text, false),
    ),
    (
        "base64.channel.k8s.io",
        channels(Codec::Base64, StatusForm::Text, false),
    ),
    ("", channels(Codec::Binary, StatusForm::Text, false)),
];
const WEBSOCKET_FORWARD: Versions = &[
    ("SPDY/3.1+portforward.k8s.io", Protocol::TunnelledForward),
    (
        "v4.channel.k8s.io",
        channels(Codec::Binary, StatusForm::Text, false),
    ),
    (
        "v4.base64.channel.k8s.io",
        channels(Codec::Base64, StatusForm::Text, false),
    ),
    ("", channels(Codec::Binary, StatusForm::Text, false)),
];

const fn command(status: StatusForm, resize: bool) -> Protocol {
    Protocol::SpdyCommand(CommandVersion { status, resize })
}

const fn channels(codec: Codec, status: StatusForm, half_close: bool) -> Protocol {
    Protocol::Channels(ChannelVersion {
        codec,
        status,
        half_close,
    })
}

/// Finds what to speak with a client.
pub(crate) fn negotiate(
    purpose: Purpose,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Agreement, Refusal> {
    let upgrades = values(headers, &UPGRADE);
    if upgrades
        .iter()
        .any(|name| name.eq_ignore_ascii_case("websocket"))
    {
        let versions = match purpose {
            Purpose::Exec | Purpose::Attach => WEBSOCKET_COMMAND,
            Purpose::PortForward => WEBSOCKET_FORWARD,
        };
        return websocket(versions, method, headers);
    }
    let versions = match purpose {
        Purpose::Exec | Purpose::Attach => SPDY_COMMAND,
        Purpose::PortForward => SPDY_FORWARD,
    };
    spdy(versions, headers)
}

fn spdy(versions: Versions, headers: &HeaderMap) -> Result<Agreement, Refusal> {
    let known = values(headers, &PROTOCOL_VERSION);
    if known.is_empty() {
        let reason = "unable to upgrade: X-Stream-Protocol-Version names no version";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    }
    let Some((name, protocol)) = first_common(&known, versions) else {
        return Err(no_common_version(&known, versions));
    };
    let upgrades = values(headers, &UPGRADE);
    if !is_upgrade(headers) || !upgrades.iter().any(|name| name.eq_ignore_ascii_case(SPDY)) {
        let reason = "unable to upgrade: the request does not ask for SPDY/3.1 or a WebSocket";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(name));
    Ok(Agreement { protocol, headers })
}

fn no_common_version(known: &[&str], versions: Versions) -> Refusal {
    let names: Vec<_> = versions.iter().map(|(name, _)| *name).collect();
    let reason = format!("unable to upgrade: the client speaks {known:?}, the server {names:?}");
    let mut refusal = Refusal::new(StatusCode::FORBIDDEN, reason);
    let accepted = names.into_iter().map(HeaderValue::from_static);
    refusal.headers = accepted.map(|name| (ACCEPTED_VERSIONS, name)).collect();
    refusal
}

fn websocket(
    versions: Versions,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Agreement, Refusal> {
    if *method != Method::GET {
        let reason = "a WebSocket is asked for with GET";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    let Some(key) = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|_| is_upgrade(headers))
    else {
        let reason = "unable to upgrade: no Connection: Upgrade, or no Sec-WebSocket-Key";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    };
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let reason = "unable to upgrade: only version 13 of WebSocket is spoken";
        let mut refusal = Refusal::new(StatusCode::BAD_REQUEST, reason);
        let version = HeaderValue::from_static("13");
        refusal.headers.push((SEC_WEBSOCKET_VERSION, version));
        return Err(refusal);
    }
    let mut known = values(headers, &SEC_WEBSOCKET_PROTOCOL);
    if known.is_empty() {
        known.push("");
    }
    let Some((name, protocol)) = first_common(&known, versions) else {
        return Err(no_common_version(&known, versions));
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept(key));
    if !name.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Agreement { protocol, headers })
}

/// Proves that a client's key was understood.
fn accept(key: &HeaderValue) -> HeaderValue {
    let text = [key.as_bytes(), WEBSOCKET_GUID.as_bytes()].concat();
    let hash = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    HeaderValue::from_str(&hash).expect("base64 is allowed in a header")
}

/// The client's favourite among those that the server knows too.
fn first_common(known: &[&str], versions: Versions) -> Option<(&'static str, Protocol)> {
    let common = |name: &&str| versions.iter().find(|(ours, _)| ours == name);
    known.iter().find_map(common).copied()
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = values(headers, &CONNECTION);
    connection
        .iter()
        .any(|value| value.eq_ignore_ascii_case("upgrade"))
}

/// The elements of a header that is a list, or comes several times.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let texts = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let elements = texts.flat_map(|text| text.split(',')).map(str::trim);
    elements.filter(|element| !element.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let entries = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(name, value);
        }
        map
    }

    fn ask(
        purpose: Purpose,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Agreement, Refusal> {
        negotiate(purpose, &Method::GET, &map(headers))
    }

    const SPDY_UPGRADE: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const WEBSOCKET_UPGRADE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn the_clients_favourite_version_of_spdy_is_spoken() {
        let mut headers = SPDY_UPGRADE.to_vec();
        headers.push((
            "x-stream-protocol-version",
            "v9.channel.k8s.io, v3.channel.k8s.io",
        ));
        headers.push(("x-stream-protocol-version", "v4.channel.k8s.io"));
        let agreement = ask(Purpose::Exec, &headers).unwrap();
        assert_eq!(agreement.protocol, command(StatusForm::Text, true));
        assert_eq!(agreement.headers[PROTOCOL_VERSION], "v3.channel.k8s.io");
        assert_eq!(agreement.headers[UPGRADE], "SPDY/3.1");
        let refusal = ask(Purpose::PortForward, &headers).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers[0].1, "portforward.k8s.io");
    }

    #[test]
    fn requests_that_ask_for_no_upgrade_are_refused() {
        let version = ("x-stream-protocol-version", "v4.channel.k8s.io");
        for headers in [
            vec![],
            SPDY_UPGRADE.to_vec(),
            vec![version],
            vec![SPDY_UPGRADE[1], version],
        ] {
            let refusal = ask(Purpose::Exec, &headers).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{headers:?}");
        }
    }

    #[test]
    fn a_websocket_is_agreed_on_as_its_rfc_says() {
        let agreement = ask(Purpose::Attach, &WEBSOCKET_UPGRADE).unwrap();
        assert_eq!(
            agreement.headers[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert!(!agreement.headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
        for (purpose, name, protocol) in [
            (
                Purpose::Exec,
                "v5.channel.k8s.io",
                channels(Codec::Binary, StatusForm::Json, true),
            ),
            (
                Purpose::Exec,
                "base64.channel.k8s.io",
                channels(Codec::Base64, StatusForm::Text, false),
            ),
            (
                Purpose::PortForward,
                "SPDY/3.1+portforward.k8s.io",
                Protocol::TunnelledForward,
            ),
        ] {
            let mut headers = WEBSOCKET_UPGRADE.to_vec();
            headers.push(("sec-websocket-protocol", name));
            let agreement = ask(purpose, &headers).unwrap();
            assert_eq!(agreement.headers[SEC_WEBSOCKET_PROTOCOL], name);
            assert_eq!(agreement.protocol, protocol);
        }
    }

    #[test]
    fn websockets_that_cannot_be_are_refused() {
        let refused = |method, headers: &[(&'static str, &'static str)]| {
            negotiate(Purpose::Exec, &method, &map(headers))
                .unwrap_err()
                .status
        };
        let mut other_version = WEBSOCKET_UPGRADE;
        other_version[3].1 = "8";
        let mut unknown = WEBSOCKET_UPGRADE.to_vec();
        unknown.push(("sec-websocket-protocol", "chat"));
        assert_eq!(
            refused(Method::POST, &WEBSOCKET_UPGRADE),
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(
            refused(Method::GET, &WEBSOCKET_UPGRADE[1..]),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            refused(Method::GET, &WEBSOCKET_UPGRADE[..2]),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            refused(Method::GET, &other_version),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(refused(Method::GET, &unknown), StatusCode::FORBIDDEN);
    }
}
