//! Sealed copies of files in memory.
