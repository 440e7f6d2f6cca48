//! The server on the socket, and the one for streams beside it.

use crate::cadvisor::Cadvisor;
use crate::deadline::Deadlines;
use crate::images::ImageServer;
use crate::node::NodeServer;
use crate::runtime::Runtime;
use crate::span::RpcSpans;
use crate::streams;
use crisp_cri_api::MAX_MESSAGE_BYTES;
use crisp_cri_api::containerd::containers::containers_server::ContainersServer;
use crisp_cri_api::containerd::tasks::tasks_server::TasksServer;
use crisp_cri_api::containerd::version::version_server::VersionServer;
use crisp_cri_api::node::v1::node_server;
use crisp_cri_api::v1::image_service_server::ImageServiceServer;
use crisp_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use crisp_engine::{Config, Engine, Reload};
use crisp_streaming::Server as StreamingServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport;

/// How long RPCs that are under way may take to end once the server is to stop. Those that are cut
/// off lose no work: the engine ends what it has begun.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the CRI cannot be served on its socket")]
    Serve(#[source] transport::Error),
    #[error("the server for exec, attach and port-forward cannot be started")]
    Streaming(#[source] crisp_streaming::Error),
    #[error("the [streaming] section cannot take effect")]
    ReloadStreaming(#[source] crisp_streaming::Error),
    #[error("the engine cannot take the configuration up")]
    Reload(#[source] crisp_engine::Error),
}

/// Everything that clients reach an engine by.
#[derive(Debug)]
pub struct Server {
    engine: Arc<Engine>,
    streaming: Arc<StreamingServer>,
}

impl Server {
    /// Starts the server for streams; the CRI is not served yet.
    ///
    /// # Errors
    /// If its address or its certificates cannot be used.
    pub async fn start(engine: Arc<Engine>) -> Result<Self, Error> {
        let settings = streams::settings(&engine.config().streaming);
        let streaming = StreamingServer::start(settings)
            .await
            .map_err(Error::Streaming)?;
        Ok(Self {
            engine,
            streaming: Arc::new(streaming),
        })
    }

    /// Serves the CRI on a socket until `shutdown` is ready; RPCs that are under way then have a few
    /// seconds to end.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn serve(
        &self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let (stopping, stopped) = oneshot::channel();
        let shutdown = async move {
            shutdown.await;
            // Nobody listens when the server has ended by itself.
            let _ = stopping.send(());
        };
        let cadvisor = Cadvisor::new(self.engine.clone());
        let server = transport::Server::builder()
            .layer(RpcSpans::new(self.engine.clone()))
            .layer(Deadlines)
            .add_service(bounded_runtime(&self.engine, &self.streaming))
            .add_service(bounded_images(&self.engine))
            .add_service(bounded_node(&self.engine))
            .add_service(ContainersServer::new(cadvisor.clone()))
            .add_service(TasksServer::new(cadvisor.clone()))
            .add_service(VersionServer::new(cadvisor))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown);
        tokio::select! {
            ended = server => ended.map_err(Error::Serve),
            () = drained(stopped) => Ok(()),
        }
    }

    /// Takes up what can change of a configuration file that was read again, and says what can not.
    /// The streams' certificates are read again too. To be called by one at a time.
    ///
    /// # Errors
    /// If the certificates cannot be used; then nothing changes.
    pub async fn reload(&self, read: &Config) -> Result<Reload, Error> {
        let reload = self.engine.config().reload(read);
        // First, because only this can fail.
        self.streaming
            .reconfigure(streams::settings(&reload.config.streaming))
            .map_err(Error::ReloadStreaming)?;
        let done = self.engine.reconfigure(reload.config.clone()).await;
        done.map(|()| reload).map_err(Error::Reload)
    }
}

/// Ready when the time for ending is over; never when nobody said to stop.
async fn drained(stopped: oneshot::Receiver<()>) {
    match stopped.await {
        Ok(()) => tokio::time::sleep(DRAIN).await,
        Err(_) => std::future::pending().await,
    }
}

fn bounded_runtime(
    engine: &Arc<Engine>,
    streaming: &Arc<StreamingServer>,
) -> RuntimeServiceServer<Runtime> {
    RuntimeServiceServer::new(Runtime::new(engine.clone(), streaming.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn bounded_images(engine: &Arc<Engine>) -> ImageServiceServer<ImageServer> {
    ImageServiceServer::new(ImageServer::new(engine.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn bounded_node(engine: &Arc<Engine>) -> node_server::NodeServer<NodeServer> {
    node_server::NodeServer::new(NodeServer::new(engine.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
