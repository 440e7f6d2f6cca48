//! Capabilities, seccomp, no_new_privs and what else confines a process.
