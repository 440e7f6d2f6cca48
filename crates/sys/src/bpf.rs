//! Device filters for control groups.
