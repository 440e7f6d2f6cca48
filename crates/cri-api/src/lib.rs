//! The CRI v1 protocol: messages, clients and server traits, generated from `proto/`.

#![forbid(unsafe_code)]
