//! The built-in pod network against a real kernel: traffic between pods, node and an outside, host
//! ports, exhaustion, uplinks, and that nothing stays behind.
//!
//! Each test has a node of its own: a network namespace in which a thread runs the network under
//! test, so that tests run side by side and leave the machine's own network alone. Pods and the
//! outside are namespaces too. The program `ip` (iproute2) makes and removes them.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod harness;
mod host_ports;
mod lifetime;
mod traffic;
mod uplink;
