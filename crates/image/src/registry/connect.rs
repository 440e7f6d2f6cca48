//! Connections: TCP, through a proxy if the environment names one (`HTTPS_PROXY`, `NO_PROXY` …), and TLS.

use super::hosts::{Host, Tls};
use crate::Error;
use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// What is read from a connection at once: bounds the pieces in which a body arrives.
const MAX_READ_BYTES: usize = 128 << 10;
/// An unused connection is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) type HttpClient = Client<HttpsConnector<Connector>, Full<Bytes>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The clients for one host, with the trust that it was configured with. Certificates are read when the
/// first https request is made, so that a registry on this machine costs none of it.
pub(crate) struct Clients {
    connector: Connector,
    tls: Tls,
    plain: OnceLock<HttpClient>,
    secure: OnceLock<HttpClient>,
}

impl Clients {
    pub(crate) fn new(host: &Host) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(host.dial_timeout));
        tcp.set_nodelay(true);
        let connector = Connector {
            tcp,
            proxies: Arc::new(Matcher::from_env()),
        };
        Self {
            connector,
            tls: host.tls.clone(),
            plain: OnceLock::new(),
            secure: OnceLock::new(),
        }
    }

    /// The client for URLs with this scheme.
    pub(crate) fn for_scheme(&self, scheme: &str) -> Result<&HttpClient, Error> {
        if scheme == "http" {
            let no_trust = || client_config(RootCertStore::empty(), &Tls::default());
            return get_or_try_init(&self.plain, || Ok(self.client(no_trust()?)));
        }
        get_or_try_init(&self.secure, || {
            let roots = roots(&self.tls.authorities)?;
            Ok(self.client(client_config(roots, &self.tls)?))
        })
    }

    fn client(&self, tls: ClientConfig) -> HttpClient {
        Client::builder(TokioExecutor::new())
            .http1_max_buf_size(MAX_READ_BYTES)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(HttpsConnector::from((self.connector.clone(), tls)))
    }
}

/// Two that come first at the same time both make one, and one of them is kept.
fn get_or_try_init<T>(
    cell: &OnceLock<T>,
    make: impl FnOnce() -> Result<T, Error>,
) -> Result<&T, Error> {
    match cell.get() {
        Some(made) => Ok(made),
        None => {
            let made = make()?;
            Ok(cell.get_or_init(|| made))
        }
    }
}

/// Connects directly, or by CONNECT through a proxy.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(BoxError::from)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.intercept(&destination) else {
            let connecting = self.tcp.call(destination);
            return Box::pin(async { connecting.await.map_err(BoxError::from) });
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.tcp.clone());
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        Box::pin(async move { tunnel.call(destination).await.map_err(BoxError::from) })
    }
}

fn client_config(roots: RootCertStore, tls: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.2 and 1.3");
    let builder = if tls.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    // A server is shown one certificate: the first that is configured.
    match tls.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| invalid(certificate, &error)),
    }
}

/// The system's authorities and those configured for the host.
fn roots(authorities: &[std::path::PathBuf]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in system.errors {
        tracing::debug!(%error, "cannot read some of the system's certificates");
    }
    roots.add_parsable_certificates(system.certs);
    for path in authorities {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| invalid(path, &error))?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, pem::Error>>)
        .map_err(|error| invalid(path, &error))?;
    if found.is_empty() {
        return Err(invalid(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| invalid(path, &error))
}

fn invalid(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::InvalidConfig {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Takes any certificate, as `skip_verify` asks for.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
