//! Unix sockets that carry packets and file descriptors.
