//! clone3, pidfds, waiting, and the witness that a process has one thread.
