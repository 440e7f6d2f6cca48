//! The same over TLS, with certificates made for the test.

use super::client::{WEBSOCKET_UPGRADE, WebSocket, ask_over};
use super::process::script;
use crate::{Error, Server, Settings, TlsSettings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for this host, and its key, in PEM.
fn certify(authority: &CertifiedIssuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn settings(directory: &Path, authority: &CertifiedIssuer<'_, KeyPair>) -> TlsSettings {
    let (certificate, key) = certify(authority);
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsSettings {
        certificate: write("server.pem", &certificate),
        key: write("server.key", &key),
        client_ca: Some(write("clients.pem", &authority.pem())),
    }
}

fn connector(
    authority: &CertifiedIssuer<'_, KeyPair>,
    client: Option<(String, String)>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn clients_with_a_certificate_are_served_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let configured = Settings {
        tls: Some(settings(directory.path(), &authority)),
        ..Settings::default()
    };
    let server = Server::start(configured.clone()).await.unwrap();
    let url = server
        .exec(script("head -c 3000000 /dev/zero; exit 3"))
        .unwrap();
    assert!(url.starts_with("https://"), "{url}");
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connect = async |connector: TlsConnector| {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let stream = connector.connect(name.clone(), stream).await?;
        Ok::<_, std::io::Error>(stream)
    };

    let stranger = connect(connector(&authority, None)).await;
    if let Ok(mut stream) = stranger {
        // With TLS 1.3 the refusal comes after the handshake.
        let read = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
        assert!(read.is_err());
    }

    let stream = connect(connector(&authority, Some(certify(&authority))))
        .await
        .unwrap();
    let answer = ask_over(Box::new(stream), "GET", &url, &WEBSOCKET_UPGRADE).await;
    assert_eq!(answer.status, 101);
    let mut client = WebSocket { wire: answer.wire };
    let (got, code) = client.rest().await;
    assert_eq!((got[&1].len(), code), (3_000_000, 1000));

    std::fs::write(directory.path().join("server.key"), "no key").unwrap();
    let refused = server.reconfigure(configured.clone());
    assert!(matches!(refused, Err(Error::ReadTls { .. })));
    connect(connector(&authority, Some(certify(&authority))))
        .await
        .unwrap();

    let other = self::authority();
    settings(directory.path(), &other);
    server.reconfigure(configured).unwrap();
    connect(connector(&authority, Some(certify(&authority))))
        .await
        .unwrap_err();
    connect(connector(&other, Some(certify(&other))))
        .await
        .unwrap();
    server.reconfigure(Settings::default()).unwrap();
    let url = server.exec(script("true")).unwrap();
    assert!(url.starts_with("http://"), "{url}");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let good = settings(directory.path(), &authority);
    let missing = TlsSettings {
        key: directory.path().join("nowhere"),
        ..good.clone()
    };
    std::fs::write(directory.path().join("other.key"), certify(&authority).1).unwrap();
    let other = TlsSettings {
        key: directory.path().join("other.key"),
        ..good
    };
    let start = |tls| {
        Server::start(Settings {
            tls: Some(tls),
            ..Settings::default()
        })
    };
    assert!(matches!(start(missing).await, Err(Error::ReadTls { .. })));
    assert!(matches!(start(other).await, Err(Error::InvalidTls { .. })));
}
