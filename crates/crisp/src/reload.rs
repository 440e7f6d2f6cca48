//! SIGHUP: the configuration file is read again while the daemon runs.

use crate::client::Target;
use anyhow::Result;
use crisp_cri::Server;
use crisp_engine::{Difference, Reload};
use std::convert::Infallible;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for it. They are watched from the start: one that comes early is not lost, and
/// does not end the daemon.
pub(crate) struct Hangups(Signal);

impl Hangups {
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Reads the configuration at each signal, and tells in the log what has come of it.
    pub(crate) async fn reload(mut self, target: &Target, server: &Server) -> Infallible {
        while self.0.recv().await.is_some() {
            match reload(target, server).await {
                Ok(reload) => tell(&reload),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "the configuration stays as it was"
                ),
            }
        }
        std::future::pending().await
    }
}

async fn reload(target: &Target, server: &Server) -> Result<Reload> {
    Ok(server.reload(&target.config()?).await?)
}

fn tell(reload: &Reload) {
    for Difference {
        setting,
        in_force,
        in_file,
    } in &reload.taken_up
    {
        tracing::info!(old = in_force, new = in_file, "{setting} has changed");
    }
    for Difference {
        setting,
        in_force,
        in_file,
    } in &reload.needs_restart
    {
        tracing::warn!(
            old = in_force,
            new = in_file,
            "{setting} stays as it was: restart crisp to change it"
        );
    }
    let (changed, kept) = (reload.taken_up.len(), reload.needs_restart.len());
    tracing::info!(changed, kept, "the configuration was read again");
}
