//! How a client reaches a runtime.

use crate::node::v1::node_client::NodeClient;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tonic::transport::{Channel, Endpoint, Error};

/// The largest message in either direction, in bytes: what the kubelet and crictl set too. gRPC's
/// own bound of 4 MiB is less than a list of a few thousand containers.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Connects to the runtime that listens on a unix socket. The channel dials again by itself when
/// the runtime was restarted.
///
/// # Errors
/// The path is not UTF-8, or nobody listens on it.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let uri = [b"unix://", socket.as_os_str().as_bytes()].concat();
    Endpoint::from_shared(uri)?.connect().await
}

/// A client of the service for pods and containers, bounded by [`MAX_MESSAGE_BYTES`].
#[must_use]
pub fn runtime_client(channel: Channel) -> RuntimeServiceClient<Channel> {
    RuntimeServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// A client of the service for images, bounded by [`MAX_MESSAGE_BYTES`].
#[must_use]
pub fn image_client(channel: Channel) -> ImageServiceClient<Channel> {
    ImageServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// A client of crisp's own service, bounded by [`MAX_MESSAGE_BYTES`].
#[must_use]
pub fn node_client(channel: Channel) -> NodeClient<Channel> {
    NodeClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_does_not_exist_is_an_error() {
        assert!(connect(Path::new("/nonexistent/crisp.sock")).await.is_err());
    }
}
