//! The harness of the privileged tests.

#![forbid(unsafe_code)]
