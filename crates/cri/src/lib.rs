//! The CRI v1 gRPC services on top of the engine.

#![forbid(unsafe_code)]
