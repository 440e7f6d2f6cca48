//! The privileged tests, one module for each theme. They are one program, so that they share one
//! registry and are linked once.

mod apparmor;
mod cdi;
mod checkpoint;
mod cni;
mod containers;
mod costs;
mod crictl;
mod errors;
mod events;
mod exec;
mod files;
mod handlers;
mod harness;
mod hostile;
mod images;
mod import;
mod limits;
mod logs;
mod mounts;
mod namespaces;
mod network;
mod older;
mod processes;
mod reload;
mod resize;
mod restart;
mod seccomp;
mod selinux;
mod services;
mod streams;
mod systemd;
mod upgrade;
mod uplink;
mod users;
mod volumes;
