//! The numbers of syscalls cut into runs that are treated alike.

use crate::abi::{Abi, X32_BIT};
use crate::action;
use crate::rules::{Rule, Rules, When};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What is done with a syscall.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Return(u32),
    /// The first of these rules that applies decides, else the default.
    FirstOf(Vec<usize>),
}

/// A run of numbers with one verdict, up to the start of the next run.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) start: u32,
    pub(crate) abi: Abi,
    pub(crate) verdict: Verdict,
}

/// All numbers that come with one AUDIT_ARCH value. `x32` is heeded for x86_64 only.
pub(crate) fn segments(rules: &Rules<'_>, abi: Abi, x32: X32) -> Vec<Segment> {
    let mut segments = Segments::default();
    if abi != Abi::X86_64 {
        segments.extend(rules, abi, 0..=u32::MAX);
        return segments.0;
    }
    segments.extend(rules, abi, 0..=X32_BIT - 1);
    match x32 {
        X32::Listed => segments.extend(rules, Abi::X32, X32_BIT..=u32::MAX - 1),
        X32::Unlisted => segments.push(X32_BIT, abi, Verdict::Return(action::KILL_PROCESS)),
    }
    // What a tracer makes of a call that it cancels; no ABI's.
    segments.extend(rules, abi, u32::MAX..=u32::MAX);
    segments.0
}

/// Whether the profile lists x32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum X32 {
    Listed,
    Unlisted,
}

#[derive(Default)]
struct Segments(Vec<Segment>);

impl Segments {
    fn extend(&mut self, rules: &Rules<'_>, abi: Abi, numbers: RangeInclusive<u32>) {
        let table = Table::new(rules, abi);
        let mut next = Some(*numbers.start());
        for (number, verdict) in table.verdicts.range(numbers.clone()) {
            if let Some(gap) = next.filter(|gap| gap < number) {
                self.push_unnamed(&table, abi, gap, number - 1);
            }
            self.push(*number, abi, verdict.clone());
            next = number.checked_add(1);
        }
        if let Some(gap) = next.filter(|gap| gap <= numbers.end()) {
            self.push_unnamed(&table, abi, gap, *numbers.end());
        }
    }

    /// Numbers that no rule names.
    fn push_unnamed(&mut self, table: &Table, abi: Abi, first: u32, last: u32) {
        let Some(newest) = table.newest else {
            return self.push(first, abi, Verdict::Return(table.default));
        };
        if first <= newest {
            self.push(first, abi, Verdict::Return(table.default));
        }
        if last > newest {
            let unknown = Verdict::Return(action::errno(libc::ENOSYS));
            self.push(first.max(newest + 1), abi, unknown);
        }
    }

    fn push(&mut self, start: u32, abi: Abi, verdict: Verdict) {
        let merges = self.0.last().is_some_and(|last| {
            last.verdict == verdict && (last.abi == abi || matches!(verdict, Verdict::Return(_)))
        });
        if !merges {
            self.0.push(Segment {
                start,
                abi,
                verdict,
            });
        }
    }
}

/// The rules by the numbers of one ABI.
struct Table {
    verdicts: BTreeMap<u32, Verdict>,
    default: u32,
    /// The newest syscall that a denying profile names, so that its author can have known it and
    /// all older ones. None: nothing is said of newer ones.
    newest: Option<u32>,
}

impl Table {
    fn new(rules: &Rules<'_>, abi: Abi) -> Self {
        let mut table = Self {
            verdicts: BTreeMap::new(),
            default: rules.default,
            newest: None,
        };
        for (index, rule) in rules.rules.iter().enumerate() {
            for number in rule.syscalls.iter().filter_map(|name| abi.number(name)) {
                if abi.is_numbered_by_age(number) && !action::lets_pass(rules.default) {
                    table.newest = table.newest.max(Some(number));
                }
                table.add(number, index, rule);
            }
        }
        table.settle();
        table
    }

    fn add(&mut self, number: u32, index: usize, rule: &Rule<'_>) {
        let verdict = self
            .verdicts
            .entry(number)
            .or_insert_with(|| Verdict::FirstOf(Vec::new()));
        match (verdict, &rule.when) {
            // Such a rule does not win over others: runc leaves it out too.
            _ if rule.value == self.default => {}
            (Verdict::Return(_), _) => {}
            (verdict, When::Always) => *verdict = Verdict::Return(rule.value),
            (Verdict::FirstOf(rules), _) => rules.push(index),
        }
    }

    /// What is named by rules that were left out is treated as known, not as new.
    fn settle(&mut self) {
        let without_rules = Verdict::FirstOf(Vec::new());
        for verdict in self.verdicts.values_mut().filter(|v| **v == without_rules) {
            *verdict = Verdict::Return(self.default);
        }
    }
}
