//! The streaming server over TLS, with certificates made for the test.

use super::{TRANSPORTS, echoing};
use anyhow::{Context, Result, ensure};
use crisp_e2e::{Node, until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Writes a certificate for this host and its key; their paths.
fn certify(dir: &Path, name: &str, authority: &Authority) -> Result<[PathBuf; 2]> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(["localhost", "127.0.0.1"].map(str::to_owned))?;
    let paths = ["crt", "key"].map(|kind| dir.join(format!("{name}.{kind}")));
    fs::write(&paths[0], params.signed_by(&key, authority)?.pem())?;
    fs::write(&paths[1], key.serialize_pem())?;
    Ok(paths)
}

fn write_ca(dir: &Path, name: &str, authority: &Authority) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, authority.pem())?;
    Ok(path)
}

/// What crictl is told of certificates.
struct Client {
    ca: PathBuf,
    /// None: it has no certificate of its own.
    own: Option<[PathBuf; 2]>,
}

impl Client {
    fn options(&self) -> Vec<String> {
        let mut options = vec![format!("--tls-ca={}", self.ca.display())];
        if let Some([certificate, key]) = &self.own {
            options.push(format!("--tls-cert={}", certificate.display()));
            options.push(format!("--tls-key={}", key.display()));
        }
        options
    }

    /// A command line of crictl with these options.
    fn line<'a>(options: &'a [String], command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        let mut line = vec![command];
        line.extend(options.iter().map(String::as_str));
        line.extend(rest);
        line
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_streams_over_tls_are_for_clients_with_the_right_certificate() -> Result<()> {
    // The daemon has its files before it starts, and the node has no directory before that.
    let files = tempfile::tempdir()?;
    let dir = files.path();
    let (servers, clients, strangers) = (authority()?, authority()?, authority()?);
    let [certificate, key] = certify(dir, "server", &servers)?;
    let client_ca = write_ca(dir, "clients.crt", &clients)?;
    let path = |path: &Path| path.display().to_string();
    let settings = [
        ("certificate", path(&certificate)),
        ("key", path(&key)),
        ("client_ca", path(&client_ca)),
    ];
    let node = Node::start_with(|config| {
        let streaming: toml::Table = settings
            .into_iter()
            .map(|(name, path)| (name.to_owned(), path.into()))
            .collect();
        config.insert("streaming".to_owned(), streaming.into());
    })
    .await?;
    let (pod, container) = echoing(&node).await?;
    let ca = write_ca(dir, "servers.crt", &servers)?;
    let good = Client {
        ca: ca.clone(),
        own: Some(certify(dir, "client", &clients)?),
    };
    let options = good.options();
    for transport in TRANSPORTS {
        let exec = [
            transport,
            container.id.as_str(),
            "sh",
            "-c",
            "echo out; exit 3",
        ];
        let done = node
            .try_crictl(&Client::line(&options, "exec", &exec))
            .await?;
        ensure!(done.stdout == "out\n", "{transport}: {done:?}");
        ensure!(done.stderr.contains("exit code 3"), "{transport}: {done:?}");
        let port = [transport, pod.id.as_str(), ":7"];
        let forward = Client::line(&options, "port-forward", &port);
        let forward = node.crictl_forward(&forward[1..]).await?;
        let answer = until("the port answers over TLS", async || {
            let mut stream = TcpStream::connect(forward.address).await.ok()?;
            stream.write_all(b"hello").await.ok()?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.ok()?;
            Some(answer)
        })
        .await?;
        ensure!(&answer == b"hello");
        let bad = [
            (
                "no certificate",
                Client {
                    ca: ca.clone(),
                    own: None,
                },
            ),
            (
                "a stranger's certificate",
                Client {
                    ca: ca.clone(),
                    own: Some(certify(dir, "stranger", &strangers)?),
                },
            ),
            (
                "a server that it does not trust",
                Client {
                    ca: write_ca(dir, "strangers.crt", &strangers)?,
                    own: good.own.clone(),
                },
            ),
        ];
        for (what, client) in bad {
            let options = client.options();
            let exec = [transport, container.id.as_str(), "touch", "/reached"];
            let refused = node
                .try_crictl(&Client::line(&options, "exec", &exec))
                .await?;
            ensure!(refused.code != Some(0), "{what}: {refused:?}");
        }
    }
    ensure!(container.exec(&["ls", "/reached"]).await?.code != 0);
    // Who does not speak TLS at all gets nothing either.
    let url = super::raw::exec_url(&node, &container.id, &["true"]).await?;
    ensure!(url.starts_with("https://"), "{url}");
    let answer = super::raw::upgrade(&url, super::raw::SPDY).await;
    ensure!(answer.is_err(), "an answer without TLS");
    drop(files);
    node.finish().await.context("after TLS")
}
