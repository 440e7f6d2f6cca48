//! Resolving and creating paths inside a root by file descriptor.
