//! Asking one host: authentication, redirects, bounds on what it answers and on how long it takes.
//!
//! What says who we are (credentials, tokens, configured headers) goes to this host alone. A redirect
//! within it keeps it; any other host on the way sees nothing of it (CVE-2020-15157). The token service
//! that the host names gets the credentials for this host, and over https if the host is asked over https.

use super::answer::{Failure, check, read_body, unavailable};
use super::challenge::{self, Challenge, TokenAnswer, percent_encode};
use super::connect::Clients;
use super::hosts::Host;
use super::redirect::{redirect, same_origin};
use crate::auth::Credentials;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a host may take until it begins to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The largest answer of a token service.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("crisp/", env!("CARGO_PKG_VERSION")));

/// A request for something below the host's root.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// With a slash in front.
    pub(crate) path: &'a str,
    pub(crate) accept: &'a str,
    /// Only what is behind so many bytes.
    pub(crate) skip_bytes: u64,
}

/// One host.
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    clients: Clients,
    /// Those for this host, if there are any.
    credentials: Option<Credentials>,
    /// What a token is asked for, such as `repository:library/busybox:pull`.
    scope: String,
    /// The registry that a mirror is asked to stand for.
    namespace: Option<String>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Endpoint {
    pub(crate) fn new(
        host: Host,
        registry: &str,
        repository: &str,
        credentials: Option<Credentials>,
    ) -> Self {
        let credentials = credentials.filter(|_| host.is_origin);
        let authorization = match &credentials {
            Some(Credentials::Registry(token)) => secret("Bearer", token),
            _ => None,
        };
        Self {
            clients: Clients::new(&host),
            credentials,
            scope: format!("repository:{repository}:pull"),
            namespace: (!host.is_origin).then(|| registry.to_owned()),
            authorization: Mutex::new(authorization),
            host,
        }
    }

    /// Asks, and authenticates if the host wants it. The answer is a success.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, Failure> {
        let used = self.authorization.lock().await.clone();
        let answer = self.follow(ask, used.as_ref()).await?;
        let challenge = match &answer {
            Answer::Own(response) if response.status() == StatusCode::UNAUTHORIZED => {
                challenge(response.headers())
            }
            _ => None,
        };
        let Some(challenge) = challenge else {
            return check(answer.into_response()).await;
        };
        let fresh = self.authenticate(&challenge, used.as_ref()).await?;
        check(self.follow(ask, Some(&fresh)).await?.into_response()).await
    }

    async fn follow(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let own = self.url(ask.path)?;
        let mut url = own.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_own = same_origin(&url, &own);
            let mut request = Request::builder()
                .method(ask.method.clone())
                .uri(url.clone());
            if let Some(headers) = request.headers_mut() {
                self.add_headers(headers, ask, authorization.filter(|_| is_own), is_own);
            }
            let request = request
                .body(Full::default())
                .map_err(|error| unavailable(&error))?;
            let response = self.send(request).await?;
            match redirect(&response, &url)? {
                Some(next) => url = next,
                None if is_own => return Ok(Answer::Own(response)),
                None => return Ok(Answer::Foreign(response)),
            }
        }
        Err(Failure::Unavailable(format!(
            "it redirects more than {MAX_REDIRECTS} times"
        )))
    }

    fn add_headers(
        &self,
        headers: &mut HeaderMap,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
        is_own: bool,
    ) {
        headers.insert(USER_AGENT, AGENT);
        headers.extend(
            HeaderValue::from_str(ask.accept)
                .ok()
                .map(|accept| (ACCEPT, accept)),
        );
        if ask.skip_bytes > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", ask.skip_bytes));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        if is_own {
            for (name, value) in &self.host.headers {
                headers.append(name, value.clone());
            }
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }

    fn url(&self, path: &str) -> Result<Uri, Failure> {
        let Host {
            scheme,
            authority,
            path: root,
            ..
        } = &self.host;
        let query = self
            .namespace
            .as_ref()
            .map(|name| format!("?ns={}", percent_encode(name)));
        format!(
            "{scheme}://{authority}{root}{path}{}",
            query.unwrap_or_default()
        )
        .parse()
        .map_err(|error: http::uri::InvalidUri| unavailable(&error))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let scheme = request.uri().scheme_str().unwrap_or("https");
        let client = self.clients.for_scheme(scheme).map_err(Failure::Final)?;
        match timeout(ANSWER_TIMEOUT, client.request(request)).await {
            Ok(answer) => answer.map_err(|error| unavailable(&error)),
            Err(_) => Err(Failure::Unavailable(format!(
                "no answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Gets a new authorization, unless another request got one since `used` was.
    async fn authenticate(
        &self,
        challenge: &Challenge,
        used: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Failure> {
        let mut current = self.authorization.lock().await;
        if let Some(newer) = current.as_ref().filter(|current| Some(*current) != used) {
            return Ok(newer.clone());
        }
        let fresh = match challenge {
            Challenge::Basic => self
                .basic()
                .ok_or_else(|| Failure::Denied("it wants credentials".to_owned()))?,
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let token = self
                    .token(realm, service.as_deref(), scope.as_deref())
                    .await?;
                secret("Bearer", &token)
                    .ok_or_else(|| Failure::Denied("its token is malformed".to_owned()))?
            }
        };
        *current = Some(fresh.clone());
        Ok(fresh)
    }

    fn basic(&self) -> Option<HeaderValue> {
        match &self.credentials {
            Some(Credentials::Basic { username, password }) => {
                secret("Basic", &STANDARD.encode(format!("{username}:{password}")))
            }
            _ => None,
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, Failure> {
        let mut parameters = vec![("scope", scope.unwrap_or(&self.scope))];
        parameters.extend(service.map(|service| ("service", service)));
        let request = match &self.credentials {
            Some(Credentials::Identity(token)) => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "crisp"),
                    ("refresh_token", token),
                ]);
                post_form(&self.realm(realm, &[])?, &parameters)
            }
            Some(Credentials::Registry(_)) => {
                return Err(Failure::Denied(
                    "it does not take the token that was given".to_owned(),
                ));
            }
            _ => get(&self.realm(realm, &parameters)?, self.basic()),
        };
        let response = self
            .send(request.map_err(|error| unavailable(&error))?)
            .await?;
        if response.status().is_redirection() {
            return Err(Failure::Unavailable(
                "its token service redirects".to_owned(),
            ));
        }
        let body = read_body(check(response).await?, MAX_TOKEN_BYTES).await?;
        serde_json::from_slice::<TokenAnswer>(&body)
            .ok()
            .and_then(TokenAnswer::into_token)
            .ok_or_else(|| Failure::Unavailable("its token service gives no token".to_owned()))
    }

    /// The URL of the token service, with parameters behind those that it may have.
    fn realm(&self, realm: &str, parameters: &[(&str, &str)]) -> Result<Uri, Failure> {
        let is_allowed = realm.starts_with("https://")
            || (realm.starts_with("http://") && self.host.scheme == "http");
        if !is_allowed {
            let reason =
                format!("it names a token service that is not asked over https: {realm:?}");
            return Err(Failure::Denied(reason));
        }
        let separator = if realm.contains('?') { "&" } else { "?" };
        let query = if parameters.is_empty() {
            String::new()
        } else {
            format!("{separator}{}", form(parameters))
        };
        format!("{realm}{query}")
            .parse()
            .map_err(|error: http::uri::InvalidUri| unavailable(&error))
    }
}

/// Who answered.
enum Answer {
    Own(Response<Incoming>),
    /// A host that was redirected to: it is not one that we authenticate with.
    Foreign(Response<Incoming>),
}

impl Answer {
    fn into_response(self) -> Response<Incoming> {
        match self {
            Self::Own(response) | Self::Foreign(response) => response,
        }
    }
}

fn secret(scheme: &str, value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("{scheme} {value}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn get(url: &Uri, authorization: Option<HeaderValue>) -> http::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().uri(url).header(USER_AGENT, AGENT);
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    request.body(Full::default())
}

fn post_form(url: &Uri, parameters: &[(&str, &str)]) -> http::Result<Request<Full<Bytes>>> {
    Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::from(form(parameters)))
}

fn form(parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = parameters
        .iter()
        .map(|(key, value)| format!("{key}={}", percent_encode(value)))
        .collect();
    pairs.join("&")
}

fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    challenge::parse(&values.collect::<Vec<_>>().join(", "))
}
