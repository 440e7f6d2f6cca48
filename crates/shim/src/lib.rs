//! One pod: stdio, logs, exits and exec of its containers.

#![forbid(unsafe_code)]
