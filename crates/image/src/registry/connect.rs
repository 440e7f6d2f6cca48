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
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::path::{Path, PathBuf};
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
            let config = || client_config(Trust::none(), &Tls::default());
            return get_or_try_init(&self.plain, || Ok(self.client(config()?)));
        }
        let config = || client_config(Trust::load(&self.tls.authorities)?, &self.tls);
        get_or_try_init(&self.secure, || Ok(self.client(config()?)))
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

fn client_config(trust: Trust, tls: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if tls.skip_verify {
        Arc::new(Unverified(provider.clone()))
    } else {
        Arc::new(Verified::new(trust, provider.clone()))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    // A server is shown one certificate: the first that is configured.
    match tls.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| invalid(certificate, &error)),
    }
}

/// Whom a host is to be vouched for by.
struct Trust {
    /// The system's authorities and those configured for the host.
    roots: RootCertStore,
    /// Those configured for the host.
    configured: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn none() -> Self {
        Self {
            roots: RootCertStore::empty(),
            configured: Vec::new(),
        }
    }

    fn load(authorities: &[PathBuf]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in system.errors {
            tracing::debug!(%error, "cannot read some of the system's certificates");
        }
        roots.add_parsable_certificates(system.certs);
        let mut configured = Vec::new();
        for path in authorities {
            for certificate in certificates(path)? {
                roots
                    .add(certificate.clone())
                    .map_err(|error| invalid(path, &error))?;
                configured.push(certificate);
            }
        }
        Ok(Self { roots, configured })
    }
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

/// Takes what the authorities vouch for, and the very certificates that are configured as authorities:
/// who makes a certificate for one registry with `openssl req -x509` gets one that is both, which the
/// usual rules refuse as that of a server. Of such a one only the name is checked.
#[derive(Debug)]
struct Verified {
    /// None without any authority.
    usual: Option<Arc<WebPkiServerVerifier>>,
    configured: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verified {
    fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Self {
        let roots = Arc::new(trust.roots);
        // There are no revocation lists: without roots is the only way to fail.
        let usual = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .ok();
        Self {
            usual,
            configured: trust.configured,
            provider,
        }
    }
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self
            .configured
            .iter()
            .any(|configured| configured == certificate)
        {
            let parsed = ParsedCertificate::try_from(certificate)?;
            return verify_server_name(&parsed, name).map(|()| ServerCertVerified::assertion());
        }
        match &self.usual {
            Some(usual) => usual.verify_server_cert(certificate, intermediates, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Unverified(self.provider.clone()).verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Unverified(self.provider.clone()).verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Takes any certificate, as `skip_verify` asks for. Signatures are checked against it even so.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl req -x509` for registry.example: its own authority.
    const SELF_SIGNED: &str = "-----BEGIN CERTIFICATE-----
MIIBqDCCAU6gAwIBAgIUIDbexgTOSqAHQXyPddti6F+3Bn4wCgYIKoZIzj0EAwIw
GzEZMBcGA1UEAwwQcmVnaXN0cnkuZXhhbXBsZTAeFw0yNjExMjYxMjA4MzVaFw0z
NjExMjMxMjA4MzVaMBsxGTAXBgNVBAMMEHJlZ2lzdHJ5LmV4YW1wbGUwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAATiR1IvTOsp916/YzK1MxE8hNAf9uK6/jPGdXmY
jkzFj3oQVaWxQ5cfakaQRlV1M8ZzB/L1ws334Tu83Dlw2IQ8o3AwbjAdBgNVHQ4E
FgQUWjiAtlfR2Bw4SF9DRC6JqhunT7IwHwYDVR0jBBgwFoAUWjiAtlfR2Bw4SF9D
RC6JqhunT7IwDwYDVR0TAQH/BAUwAwEB/zAbBgNVHREEFDASghByZWdpc3RyeS5l
eGFtcGxlMAoGCCqGSM49BAMCA0gAMEUCIF1DXkY0m+co7puig/TYAbMFmpOS2RhU
enh23AiD2RueAiEAvRno0K+ubvUVwqLcpw0vt7K3OwNHsugFP5EF4ISyHEw=
-----END CERTIFICATE-----
";

    fn verify(verifier: &dyn ServerCertVerifier, name: &str) -> bool {
        let certificate = CertificateDer::from_pem_slice(SELF_SIGNED.as_bytes()).unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier
            .verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn a_server_is_believed_if_its_very_certificate_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        std::fs::write(&file, SELF_SIGNED).unwrap();
        let provider = Arc::new(ring::default_provider());
        let configured = Verified::new(Trust::load(&[file]).unwrap(), provider.clone());
        assert!(verify(&configured, "registry.example"));
        assert!(!verify(&configured, "other.example"));
        for trust in [Trust::none(), Trust::load(&[]).unwrap()] {
            assert!(!verify(
                &Verified::new(trust, provider.clone()),
                "registry.example"
            ));
        }
        assert!(verify(&Unverified(provider), "other.example"));
    }

    #[test]
    fn files_without_certificates_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        for text in ["", "no certificate"] {
            std::fs::write(&file, text).unwrap();
            let error = Trust::load(std::slice::from_ref(&file)).err().unwrap();
            assert!(
                matches!(&error, Error::InvalidConfig { path, .. } if *path == file),
                "{error}"
            );
        }
        assert!(Trust::load(&[dir.path().join("none")]).is_err());
    }
}
