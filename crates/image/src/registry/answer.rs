//! What hosts answer: sorted into successes and failures, and read within bounds.

use crate::Error;
use crate::error::with_causes;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::timeout;

/// How long a small answer may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// So much of an error's body is looked at.
const MAX_ERROR_BYTES: u64 = 16 << 10;

/// Why a host did not give what was asked for.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// It does not have it.
    NotFound,
    /// It does not give it to us.
    Denied(String),
    /// It fails now; it may answer later.
    Unavailable(String),
    /// Another host would do no better.
    Final(Error),
}

/// Sorts answers into successes and failures.
pub(super) async fn check(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = read_body(response, MAX_ERROR_BYTES)
        .await
        .ok()
        .and_then(|body| error_message(&body));
    let reason = match said {
        Some(said) => format!("{status}: {said}"),
        None => status.to_string(),
    };
    Err(match status {
        StatusCode::NOT_FOUND => Failure::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(reason),
        _ => Failure::Unavailable(reason),
    })
}

/// The message of a registry's error (distribution spec, § Error Codes), without anything that could
/// disturb a log.
fn error_message(body: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = answer.get("errors")?.get(0)?;
    let said = error
        .get("message")
        .or_else(|| error.get("code"))?
        .as_str()?;
    Some(
        said.chars()
            .filter(|char| !char.is_control())
            .take(200)
            .collect(),
    )
}

/// The whole body, if it is not larger than `max_bytes` and arrives in time.
pub(crate) async fn read_body(
    response: Response<Incoming>,
    max_bytes: u64,
) -> Result<Bytes, Failure> {
    let read = async {
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| unavailable(&error))?.into_data() else {
                continue;
            };
            if (bytes.len() + data.len()) as u64 > max_bytes {
                return Err(Failure::Unavailable(format!(
                    "its answer is larger than {max_bytes} bytes"
                )));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    match timeout(BODY_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unavailable("its answer stalls".to_owned())),
    }
}

/// With all that caused it: hyper's own messages say little.
pub(crate) fn unavailable(error: &dyn std::error::Error) -> Failure {
    Failure::Unavailable(with_causes(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_registries_are_shown_without_control_characters() {
        let body = br#"{"errors":[{"code":"DENIED","message":"not\u001b[31m for you\n"}]}"#;
        assert_eq!(error_message(body).unwrap(), "not[31m for you");
        assert_eq!(
            error_message(br#"{"errors":[{"code":"DENIED"}]}"#).unwrap(),
            "DENIED"
        );
        assert_eq!(error_message(b"<html>"), None);
    }
}
