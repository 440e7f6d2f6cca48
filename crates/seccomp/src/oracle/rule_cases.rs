//! What single rules mean, case by case.

use super::interpreter::{Filter, SeccompData};
use crate::Error;
use crate::abi::{Abi, Machine, X32_BIT};
use crate::compile::compile_for;
use oci_spec::runtime::LinuxSeccomp;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = ERRNO + 1;
const ENOSYS: u32 = ERRNO + 38;

fn compiled(json: &str) -> Filter {
    let program = compile_for(Machine::X86_64, &profile(json)).unwrap();
    Filter::new(&program.filter)
}

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

/// A profile that denies all but what the rules say.
fn denying(rules: &str) -> Filter {
    compiled(&format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rules}],
            "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"]}}"#
    ))
}

fn verdict(filter: &Filter, abi: Abi, name: &str, args: &[u64]) -> u32 {
    numbered(filter, abi, abi.number(name).unwrap(), args)
}

fn numbered(filter: &Filter, abi: Abi, number: u32, args: &[u64]) -> u32 {
    let mut data = SeccompData {
        number,
        arch: abi.audit_arch(),
        ..SeccompData::default()
    };
    data.args[..args.len()].copy_from_slice(args);
    filter.run(&data).value
}

#[test]
fn every_action_returns_its_value() {
    for (action, value) in [
        (r#""SCMP_ACT_KILL""#, 0),
        (r#""SCMP_ACT_KILL_THREAD""#, 0),
        (r#""SCMP_ACT_KILL_PROCESS""#, KILL_PROCESS),
        (r#""SCMP_ACT_TRAP""#, 0x0003_0000),
        (r#""SCMP_ACT_ERRNO","errnoRet":4095"#, ERRNO + 4095),
        (r#""SCMP_ACT_ERRNO","errnoRet":0"#, ERRNO),
        (r#""SCMP_ACT_TRACE""#, 0x7ff0_0001),
        (r#""SCMP_ACT_TRACE","errnoRet":65535"#, 0x7ff0_ffff),
        (r#""SCMP_ACT_LOG""#, 0x7ffc_0000),
        (r#""SCMP_ACT_ALLOW""#, ALLOW),
    ] {
        let filter = denying(&format!(r#"{{"names":["read"],"action":{action}}}"#));
        assert_eq!(
            verdict(&filter, Abi::X86_64, "read", &[]),
            value,
            "{action}"
        );
        assert_eq!(verdict(&filter, Abi::X86, "read", &[]), value, "{action}");
        assert_eq!(verdict(&filter, Abi::X32, "read", &[]), value, "{action}");
    }
}

#[test]
fn operators_compare_all_64_bits() {
    const BIG: u64 = 0x0000_0002_0000_0005;
    let samples = [
        0,
        5,
        BIG - 1,
        BIG,
        BIG + 1,
        0x0000_0001_ffff_ffff,
        0x0000_0003_0000_0000,
    ];
    for (op, holds) in [
        ("EQ", (|x| x == BIG) as fn(u64) -> bool),
        ("NE", |x| x != BIG),
        ("LT", |x| x < BIG),
        ("LE", |x| x <= BIG),
        ("GT", |x| x > BIG),
        ("GE", |x| x >= BIG),
    ] {
        let filter = denying(&format!(
            r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":5,"value":{BIG},"op":"SCMP_CMP_{op}"}}]}}"#
        ));
        for x in samples {
            let expected = if holds(x) { ALLOW } else { EPERM };
            let args = [0, 0, 0, 0, 0, x];
            assert_eq!(
                verdict(&filter, Abi::X86_64, "read", &args),
                expected,
                "{x:#x} {op}"
            );
        }
    }
}

#[test]
fn a_mask_is_laid_on_the_argument_and_on_the_value() {
    let filter = denying(
        r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":2,"value":68719476975,"valueTwo":255,"op":"SCMP_CMP_MASKED_EQ"}]}"#,
    );
    const MASK: u64 = 0x10_0000_00ef;
    for (x, expected) in [
        (0xef, ALLOW),
        (0xef | !MASK, ALLOW),
        (0xee, EPERM),
        (MASK, EPERM),
    ] {
        let args = [0, 0, x];
        assert_eq!(
            verdict(&filter, Abi::X86_64, "read", &args),
            expected,
            "{x:#x}"
        );
    }
    // A 32-bit program has no bit 36.
    assert_eq!(verdict(&filter, Abi::X86, "read", &[0, 0, 0xef]), ALLOW);
}

#[test]
fn conditions_on_different_arguments_must_all_hold() {
    let filter = denying(
        r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_GT"}]}"#,
    );
    assert_eq!(verdict(&filter, Abi::X86_64, "read", &[1, 3]), ALLOW);
    assert_eq!(verdict(&filter, Abi::X86_64, "read", &[1, 2]), EPERM);
    assert_eq!(verdict(&filter, Abi::X86_64, "read", &[2, 3]), EPERM);
}

#[test]
fn of_conditions_on_one_argument_each_suffices() {
    let filter = denying(
        r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}"#,
    );
    for (x, expected) in [(1, ALLOW), (2, ALLOW), (3, EPERM)] {
        assert_eq!(verdict(&filter, Abi::X86_64, "read", &[x]), expected);
    }
}

#[test]
fn a_rule_without_conditions_beats_those_with() {
    let rules = [
        r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":9,
            "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}"#,
        r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#,
        r#"{"names":["read"],"action":"SCMP_ACT_LOG"}"#,
    ];
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        let filter = denying(&order.map(|i: usize| rules[i]).join(","));
        assert_eq!(verdict(&filter, Abi::X86_64, "read", &[1]), ALLOW);
    }
}

#[test]
fn the_first_of_two_rules_with_conditions_decides() {
    let filter = denying(
        r#"{"names":["read"],"action":"SCMP_ACT_LOG",
            "args":[{"index":0,"value":5,"op":"SCMP_CMP_LT"}]},
           {"names":["read"],"action":"SCMP_ACT_ALLOW",
            "args":[{"index":0,"value":9,"op":"SCMP_CMP_LT"}]}"#,
    );
    for (x, expected) in [(4, 0x7ffc_0000), (8, ALLOW), (9, EPERM)] {
        assert_eq!(verdict(&filter, Abi::X86_64, "read", &[x]), expected);
    }
}

#[test]
fn syscalls_newer_than_the_profile_do_not_exist() {
    let filter = denying(r#"{"names":["openat2","no_such_syscall"],"action":"SCMP_ACT_ALLOW"}"#);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        let newest = abi.number("openat2").unwrap();
        assert_eq!(numbered(&filter, abi, newest, &[]), ALLOW);
        assert_eq!(numbered(&filter, abi, newest - 1, &[]), EPERM);
        assert_eq!(numbered(&filter, abi, newest + 1, &[]), ENOSYS);
    }
    assert_eq!(numbered(&filter, Abi::X86_64, u32::MAX, &[]), ENOSYS);

    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW",
            "syscalls":[{"names":["openat2"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(numbered(&filter, Abi::X86_64, 4000, &[]), ALLOW);
}

#[test]
fn architectures_that_are_not_listed_kill() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_AARCH64"],
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG"}]}"#,
    );
    assert_eq!(verdict(&filter, Abi::X86_64, "write", &[]), ALLOW);
    assert_eq!(verdict(&filter, Abi::X86, "write", &[]), KILL_PROCESS);
    assert_eq!(verdict(&filter, Abi::X32, "write", &[]), KILL_PROCESS);
    assert_eq!(verdict(&filter, Abi::Aarch64, "write", &[]), KILL_PROCESS);
    assert_eq!(numbered(&filter, Abi::X86_64, u32::MAX, &[]), ALLOW);
    assert_eq!(numbered(&filter, Abi::X86_64, X32_BIT - 1, &[]), ALLOW);
}

#[test]
fn multiplexed_calls_of_x86_follow_the_rules_for_the_calls() {
    let filter = denying(r#"{"names":["bind","shmget"],"action":"SCMP_ACT_ALLOW"}"#);
    assert_eq!(verdict(&filter, Abi::X86, "socketcall", &[2]), ALLOW);
    assert_eq!(verdict(&filter, Abi::X86, "socketcall", &[1]), EPERM);
    assert_eq!(verdict(&filter, Abi::X86, "ipc", &[0x0001_0017]), ALLOW);
    assert_eq!(verdict(&filter, Abi::X86, "ipc", &[0x0001_0018]), EPERM);
}

#[test]
fn what_a_multiplexer_hides_is_denied_when_in_doubt() {
    let only_unix = r#"{"names":["socket"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}"#;
    let filter = denying(only_unix);
    assert_eq!(verdict(&filter, Abi::X86, "socket", &[1]), ALLOW);
    assert_eq!(verdict(&filter, Abi::X86, "socketcall", &[1]), EPERM);

    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(verdict(&filter, Abi::X86, "socket", &[38]), EPERM);
    assert_eq!(verdict(&filter, Abi::X86, "socketcall", &[1]), EPERM);
    assert_eq!(verdict(&filter, Abi::X86, "socketcall", &[2]), ALLOW);
}

#[test]
fn flags_are_those_asked_for() {
    for (flags, expected) in [
        ("", 4),
        (r#""flags":[],"#, 0),
        (
            r#""flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"],"#,
            2,
        ),
        (
            r#""flags":["SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_LOG"],"#,
            6,
        ),
    ] {
        let json = format!(r#"{{{flags}"defaultAction":"SCMP_ACT_ALLOW"}}"#);
        let program = compile_for(Machine::X86_64, &profile(&json)).unwrap();
        assert_eq!(program.flags, expected);
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for (rule, named) in [
        (
            r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#,
            "read is SCMP_ACT_NOTIFY",
        ),
        (
            r#"{"names":["a","b","c"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}"#,
            "a … c (3 syscalls) returns 4096",
        ),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":65536}"#,
            "largest possible is 65535",
        ),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}"#,
            "read compares argument 6",
        ),
    ] {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rule}]}}"#);
        let message = compile_for(Machine::X86_64, &profile(&json))
            .unwrap_err()
            .to_string();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn a_profile_that_does_not_fit_is_refused() {
    let rules: Vec<String> = (0..3000)
        .map(|value| {
            format!(
                r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                    "args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#,
        rules.join(",")
    );
    let error = compile_for(Machine::X86_64, &profile(&json)).unwrap_err();
    assert!(matches!(error, Error::TooLarge));
}
