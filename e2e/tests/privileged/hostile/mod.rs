//! A world that is against the daemon: what hangs, fills up, goes away or does not end.

mod disk;
mod exits;
mod ghosts;
mod logs;
mod mounts;
mod orphans;
mod registries;
mod retries;
mod shims;
mod stops;
mod store;
mod tracers;
