//! The pod network: bridge, addresses, routes, masquerade and host ports.

#![forbid(unsafe_code)]
