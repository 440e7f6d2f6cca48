//! HTTP requests, before any stream.

use super::client::{WEBSOCKET_UPGRADE, ask};
use super::process::{script, terminal_script};
use super::{client::Spdy, server};
use crate::{Error, ProcessRequest, Server, Settings};
use std::time::Duration;

const SPDY_UPGRADE: [(&str, &str); 3] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "SPDY/3.1"),
    ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
];

#[tokio::test]
async fn a_token_is_good_once_and_only_for_its_purpose() {
    let server = server().await;
    let url = server.exec(script("")).unwrap();
    let elsewhere = url.replace("/exec/", "/attach/");
    assert_eq!(ask("POST", &elsewhere, &SPDY_UPGRADE).await.status, 404);
    assert_eq!(
        ask("POST", &format!("{url}x"), &SPDY_UPGRADE).await.status,
        404
    );
    assert_eq!(ask("POST", &url, &SPDY_UPGRADE).await.status, 101);
    assert_eq!(ask("POST", &url, &SPDY_UPGRADE).await.status, 404);
}

#[tokio::test]
async fn requests_that_are_not_granted_leave_the_token_good() {
    let server = server().await;
    let url = server.exec(script("")).unwrap();
    let other = [
        SPDY_UPGRADE[0],
        SPDY_UPGRADE[1],
        ("X-Stream-Protocol-Version", "v9"),
    ];
    assert_eq!(ask("PUT", &url, &SPDY_UPGRADE).await.status, 405);
    assert_eq!(ask("POST", &url, &WEBSOCKET_UPGRADE).await.status, 405);
    assert_eq!(ask("POST", &url, &[]).await.status, 400);
    let refused = ask("GET", &url, &other).await;
    assert_eq!(refused.status, 403);
    for version in [
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
    ] {
        let accepted = format!("x-accepted-stream-protocol-versions: {version}");
        assert!(refused.head.contains(&accepted), "{}", refused.head);
    }
    assert_eq!(ask("GET", &url, &SPDY_UPGRADE).await.status, 101);
}

#[tokio::test]
async fn tokens_expire_and_there_are_only_so_many() {
    let server = Server::start(Settings {
        token_ttl: Duration::ZERO,
        ..Settings::default()
    });
    let server = server.await.unwrap();
    let url = server.exec(script("")).unwrap();
    assert_eq!(ask("POST", &url, &SPDY_UPGRADE).await.status, 404);
    let server = Server::start(Settings {
        tokens_max: 1,
        ..Settings::default()
    });
    let server = server.await.unwrap();
    server.exec(script("")).unwrap();
    let refused = server.exec(script(""));
    assert!(matches!(refused, Err(Error::TooManyRequests { max: 1 })));
}

#[tokio::test]
async fn requests_that_cannot_work_get_no_url() {
    let server = server().await;
    let tty_and_stderr = ProcessRequest {
        stderr: true,
        ..terminal_script("")
    };
    let nothing = ProcessRequest {
        stdin: false,
        stdout: false,
        stderr: false,
        ..script("")
    };
    for request in [tty_and_stderr, nothing] {
        assert!(matches!(
            server.attach(request),
            Err(Error::InvalidRequest(_))
        ));
    }
}

#[tokio::test]
async fn streams_that_never_come_are_not_waited_for() {
    let server = Server::start(Settings {
        creation_timeout: Duration::from_millis(100),
        ..Settings::default()
    });
    let server = server.await.unwrap();
    let url = server.exec(script("")).unwrap();
    let mut client = Spdy::open(&url, "v4.channel.k8s.io").await;
    let error = client.role("error").await;
    let got = client.rest().await;
    let said = got[&error].text();
    assert!(said.contains("did not open its streams in time"), "{said}");
}

#[tokio::test]
async fn connections_on_which_nothing_moves_are_closed() {
    let server = Server::start(Settings {
        idle_timeout: Duration::from_millis(100),
        ..Settings::default()
    });
    let server = server.await.unwrap();
    let url = server.exec(script("cat")).unwrap();
    let mut client = Spdy::open(&url, "v4.channel.k8s.io").await;
    for role in ["error", "stdin", "stdout", "stderr"] {
        client.role(role).await;
    }
    assert!(client.rest().await.values().all(|got| got.bytes.is_empty()));
}
