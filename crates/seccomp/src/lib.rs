//! Seccomp profiles: parsing, the default profile, and compilation to BPF.

#![forbid(unsafe_code)]
