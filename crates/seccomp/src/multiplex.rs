//! The syscalls of 32-bit x86 that are also reached through socketcall(2) and ipc(2).
//!
//! A filter sees which call is meant, in the first argument, but not the call's own arguments, which
//! lie in memory. So a rule with conditions is carried over only where that denies more than
//! the default does: it must not let through what it cannot see.

use crate::action;
use crate::condition::{Comparison, Condition};
use crate::rules::{Rule, When};
use std::collections::BTreeSet;

/// What socketcall's first argument means (linux/net.h).
const SOCKET_CALLS: [(&str, u64); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// What the low half of ipc's first argument means; the high half is a version (linux/ipc.h).
const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
const IPC_CALL_MASK: u64 = 0xffff;

/// The rules for the multiplexers that follow from those for the calls.
pub(crate) fn rules<'p>(rules: &[Rule<'p>], default: u32) -> Vec<Rule<'p>> {
    rules
        .iter()
        .filter(|rule| {
            matches!(rule.when, When::Always) || action::is_stricter(rule.value, default)
        })
        .flat_map(|rule| {
            [
                carried_over(rule, "socketcall", &SOCKET_CALLS, u64::MAX),
                carried_over(rule, "ipc", &IPC_CALLS, IPC_CALL_MASK),
            ]
        })
        .flatten()
        .collect()
}

fn carried_over<'p>(
    rule: &Rule<'p>,
    multiplexer: &'static str,
    calls: &[(&str, u64)],
    mask: u64,
) -> Option<Rule<'p>> {
    let any_of: Vec<Condition> = calls
        .iter()
        .filter(|(name, _)| rule.syscalls.contains(name))
        .map(|&(_, value)| Condition {
            argument: 0,
            comparison: Comparison::Equal,
            mask,
            value,
        })
        .collect();
    (!any_of.is_empty()).then(|| Rule {
        syscalls: BTreeSet::from([multiplexer]),
        when: When::AnyOf(any_of),
        value: rule.value,
    })
}
