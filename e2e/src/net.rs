//! Clients of what pods serve, from the host.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The whole answer to an HTTP GET, head and body.
///
/// # Errors
/// Nobody answers within ten seconds.
pub async fn http_get(server: SocketAddr, path: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await?
        .with_context(|| format!("GET http://{server}{path}"))
}

/// An address of this machine that nobody listens on at the moment.
///
/// # Errors
/// The machine does not have this ip.
pub fn free_address(ip: Ipv4Addr) -> io::Result<SocketAddr> {
    TcpListener::bind((ip, 0))?.local_addr()
}

/// Makes a network namespace that lives as long as it is mounted on a new file.
pub(crate) fn make_netns(at: &Path) -> Result<()> {
    File::create(at)?;
    let leave = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let (own, none) = ("/proc/thread-self/ns/net", None::<&str>);
        mount(Some(own), at, none, MsFlags::MS_BIND, none)
    };
    let result = thread::scope(|scope| scope.spawn(leave).join());
    Ok(result.expect("a thread that does not panic")?)
}

/// Makes a socket in a network namespace; it stays there, whoever uses it.
///
/// # Errors
/// There is no such namespace, or the socket cannot be made.
///
/// # Panics
/// `make` does.
pub fn in_netns<T: Send>(netns: &Path, make: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    let netns = File::open(netns).with_context(|| netns.display().to_string())?;
    // The namespace is the thread's, not the process's.
    let entered = || {
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        make()
    };
    let result = thread::scope(|scope| scope.spawn(entered).join());
    Ok(result.expect("a thread that does not panic")?)
}
