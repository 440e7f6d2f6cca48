//! The packets between daemon and shim, and the exit record.

#![forbid(unsafe_code)]
