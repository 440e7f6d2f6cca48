//! Control groups: limits, membership and figures, version 1 and 2.

#![forbid(unsafe_code)]
