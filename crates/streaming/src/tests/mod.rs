//! The server as its clients see it: in this process, over loopback, with processes of the host.

mod client;
mod exec;
mod forward;
mod hostile;
mod process;
mod requests;
mod tls;

use crate::{Server, Settings};
use std::time::Duration;

/// How long anything may take that should happen soon.
const PATIENCE: Duration = Duration::from_secs(60);

async fn server() -> Server {
    Server::start(Settings::default()).await.unwrap()
}

/// Fails rather than hangs.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this takes too long")
}
