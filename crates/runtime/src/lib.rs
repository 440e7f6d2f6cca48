//! OCI runtime spec to process: the embedded low-level runtime.

#![forbid(unsafe_code)]
