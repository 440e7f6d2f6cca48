//! The CRI v1 protocol (API v0.36), crisp's own small service beside it and the few calls of containerd
//! that cAdvisor makes: messages, clients and server traits, generated from `proto/` when the crate is
//! built.
//!
//! Beside the generated code there is only what every peer needs alike: the bound on messages, the
//! way to dial the socket, the names of the RPCs, and a `Debug` that keeps credentials out of logs.

#![forbid(unsafe_code)]

mod connect;
mod method;
mod redact;

#[cfg(test)]
mod golden;

pub use connect::{MAX_MESSAGE_BYTES, connect, image_client, node_client, runtime_client};
pub use method::Method;

/// The package `runtime.v1`.
pub mod v1 {
    #![allow(missing_debug_implementations, unreachable_pub)]
    #![allow(clippy::all, clippy::pedantic)]

    tonic::include_proto!("runtime.v1");
}

/// crisp's own service, for what the CRI lacks.
pub mod node {
    /// The package `crisp.node.v1`.
    pub mod v1 {
        #![allow(missing_debug_implementations, unreachable_pub)]
        #![allow(clippy::all, clippy::pedantic)]

        tonic::include_proto!("crisp.node.v1");
    }
}

/// What cAdvisor asks: calls of containerd's, and of their messages what it reads.
pub mod containerd {
    /// The package `containerd.services.containers.v1`.
    pub mod containers {
        #![allow(missing_debug_implementations, unreachable_pub)]
        #![allow(clippy::all, clippy::pedantic)]

        tonic::include_proto!("containerd.services.containers.v1");
    }

    /// The package `containerd.services.tasks.v1`.
    pub mod tasks {
        #![allow(missing_debug_implementations, unreachable_pub)]
        #![allow(clippy::all, clippy::pedantic)]

        tonic::include_proto!("containerd.services.tasks.v1");
    }

    /// The package `containerd.services.version.v1`.
    pub mod version {
        #![allow(missing_debug_implementations, unreachable_pub)]
        #![allow(clippy::all, clippy::pedantic)]

        tonic::include_proto!("containerd.services.version.v1");
    }
}
