//! TLS: the server's certificate, and which clients may come.

use crate::error::Error;
use crate::settings::TlsSettings;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;

/// Reads the files that the settings name.
pub(crate) fn configure(settings: &TlsSettings) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(invalid)?;
    let builder = match &settings.client_ca {
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(unreadable(&settings.key))?;
    let certificates = certificates(&settings.certificate)?;
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(invalid)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn client_verifier(
    path: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(invalid)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(invalid)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(unreadable(path))?;
    certificates
        .collect::<Result<_, _>>()
        .map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> Error {
    move |source| Error::ReadTls {
        path: path.to_owned(),
        source,
    }
}

fn invalid(error: impl ToString) -> Error {
    Error::InvalidTls {
        reason: error.to_string(),
    }
}
