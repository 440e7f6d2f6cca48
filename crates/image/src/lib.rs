//! Images: references, registries, content, unpacking, snapshots.

#![forbid(unsafe_code)]
