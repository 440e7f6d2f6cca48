//! The daemon as commands reach it: the CRI and crisp's own service, on its unix socket.

use anyhow::{Context, Result, anyhow, bail};
use crisp_cri_api::node::v1::node_client::NodeClient;
use crisp_cri_api::v1;
use crisp_cri_api::v1::image_service_client::ImageServiceClient;
use crisp_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use crisp_engine::Config;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Which daemon a command is for.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Target {
    /// The daemon's socket; without it the one that the configuration names.
    #[arg(long, value_name = "PATH", env = "CRISP_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// The configuration file; without it /etc/crisp/config.toml, if there is one.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl Target {
    /// The daemon of a socket; none: of the one that the configuration names.
    pub(crate) fn at(socket: Option<PathBuf>) -> Self {
        Self {
            socket,
            config: None,
        }
    }

    /// The configuration that the daemon has.
    pub(crate) fn config(&self) -> Result<Config> {
        Ok(match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::load_default()?,
        })
    }

    pub(crate) fn socket(&self) -> Result<PathBuf> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(self.config()?.socket()),
        }
    }
}

/// A connection to the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Runs a command that talks to the daemon.
    pub(crate) fn with<T>(
        target: &Target,
        command: impl AsyncFnOnce(Self) -> Result<T>,
    ) -> Result<T> {
        let socket = target.socket()?;
        block_on(async { command(Self::connect(&socket).await?).await })
    }

    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        match crisp_cri_api::connect(socket).await {
            Ok(channel) => Ok(Self { channel }),
            Err(error) => Err(unreachable(socket, &error)),
        }
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        crisp_cri_api::runtime_client(self.channel.clone())
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        crisp_cri_api::image_client(self.channel.clone())
    }

    pub(crate) fn node(&self) -> NodeClient<Channel> {
        crisp_cri_api::node_client(self.channel.clone())
    }

    /// What the daemon calls itself: its name and version.
    pub(crate) async fn version(&self) -> Result<v1::VersionResponse> {
        let asked = self.runtime().version(v1::VersionRequest::default()).await;
        Ok(asked.map_err(told)?.into_inner())
    }

    /// Stops and removes a pod.
    pub(crate) async fn take_down_pod(&self, id: &str) -> Result<()> {
        let stop = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime().stop_pod_sandbox(stop).await.map_err(told)?;
        let remove = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let removed = self.runtime().remove_pod_sandbox(remove).await;
        removed.map_err(told)?;
        Ok(())
    }

    /// The whole status of a container.
    pub(crate) async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let found = self.find_container_status(id).await?;
        found.with_context(|| format!("container {id} has just been removed"))
    }

    /// The same; none when there is no such container any more.
    pub(crate) async fn find_container_status(
        &self,
        id: &str,
    ) -> Result<Option<v1::ContainerStatus>> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        match self.runtime().container_status(request).await {
            Ok(answer) => Ok(answer.into_inner().status),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(told(status)),
        }
    }

    /// An image by its name or id; none when it is not on the node.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<v1::Image>> {
        let request = v1::ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        let answer = self.images().image_status(request).await.map_err(told)?;
        Ok(answer.into_inner().image)
    }
}

/// An image by a name or id.
pub(crate) fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

/// Runs a command's work on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("starting the command")?.block_on(work)
}

/// What the daemon answered instead of doing what was asked.
pub(crate) fn told(status: Status) -> anyhow::Error {
    match io_cause(&status) {
        Some(_) => anyhow!(
            "the daemon ended before it answered: look at its log, start it with `crisp serve`"
        ),
        None => anyhow!("{}", status.message()),
    }
}

fn unreachable(socket: &Path, error: &(dyn Error + 'static)) -> anyhow::Error {
    let socket = socket.display();
    match io_cause(error).map(io::Error::kind) {
        Some(ErrorKind::PermissionDenied) => {
            anyhow!("{socket} is not for this user: run the command as root")
        }
        _ => anyhow!(
            "no crisp serves {socket}: start it with `crisp serve`, or name another one's with --socket"
        ),
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Where a daemon keeps what commands need to know, as its verbose status tells it.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Directories {
    pub(crate) run_dir: PathBuf,
}

impl Client {
    pub(crate) async fn directories(&self) -> Result<Directories> {
        let request = v1::StatusRequest { verbose: true };
        let answer = self
            .runtime()
            .status(request)
            .await
            .map_err(told)?
            .into_inner();
        let Some(config) = answer.info.get("config") else {
            bail!("what serves the socket is not crisp: it tells no directories");
        };
        serde_json::from_str(config).context("what serves the socket is not crisp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_serves_is_told_with_its_remedy() {
        let error = block_on(Client::connect(Path::new("/nonexistent/crisp.sock"))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "no crisp serves /nonexistent/crisp.sock: start it with `crisp serve`"
            ),
            "{text}"
        );
    }

    #[test]
    fn an_answer_is_told_in_the_daemons_words() {
        let error = told(Status::not_found("pod \"x\" is not known"));
        assert_eq!(error.to_string(), "pod \"x\" is not known");
    }
}
