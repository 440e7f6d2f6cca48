use super::*;
use oci_spec::runtime::LinuxSeccompOperator;

fn parse(json: &str, granted: &[Capability]) -> Result<LinuxSeccomp, Error> {
    let host = Host {
        machine: Machine::X86_64,
        kernel: KernelVersion(6, 18),
        granted: &granted.iter().copied().collect(),
    };
    parse_for(&host, json.as_bytes())
}

/// Parses one rule with more fields.
fn holds(fields: &str, granted: &[Capability]) -> bool {
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO",
            "syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",{fields}}}]}}"#
    );
    let profile = parse(&json, granted).unwrap();
    !profile.syscalls().as_ref().unwrap().is_empty()
}

#[test]
fn an_oci_profile_is_read_as_it_is() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
        "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"],
        "flags":["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls":[{"names":["clone","socket"],"action":"SCMP_ACT_TRACE","errnoRet":7,
            "args":[{"index":1,"value":18446744073709551615,"valueTwo":5,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    let profile = parse(json, &[]).unwrap();
    assert_eq!(profile, serde_json::from_str(json).unwrap());
    let rule = &profile.syscalls().as_ref().unwrap()[0];
    let arg = rule.args().as_ref().unwrap()[0];
    assert_eq!(arg.op(), LinuxSeccompOperator::ScmpCmpMaskedEq);
    assert_eq!(arg.value(), u64::MAX);
}

#[test]
fn dockers_forms_become_oci() {
    let profile = parse(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":null,
            "archMap":[{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
                       {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{}},
                        {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[],"excludes":{}}]}"#,
        &[],
    )
    .unwrap();
    let architectures = [Arch::ScmpArchX86_64, Arch::ScmpArchX86];
    assert_eq!(profile.architectures().as_deref(), Some(&architectures[..]));
    let rules = profile.syscalls().as_ref().unwrap();
    assert_eq!(rules[0].names(), &["read"]);
    assert_eq!(rules[1].names(), &["write"]);
    assert_eq!(rules[1].args(), &None);
}

#[test]
fn rules_hold_where_they_say() {
    use Capability::{SysAdmin, SysChroot};
    let both = r#""includes":{"caps":["CAP_SYS_ADMIN","CAP_SYS_CHROOT"]}"#;
    assert!(holds(both, &[SysAdmin, SysChroot]));
    assert!(!holds(both, &[SysAdmin]));
    assert!(!holds(
        r#""includes":{"caps":["CAP_FROM_THE_FUTURE"]}"#,
        &[SysAdmin]
    ));
    assert!(!holds(
        r#""excludes":{"caps":["CAP_SYS_ADMIN","CAP_BPF"]}"#,
        &[SysAdmin]
    ));
    assert!(holds(
        r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#,
        &[SysChroot]
    ));
    assert!(holds(r#""includes":{"arches":["arm64","amd64"]}"#, &[]));
    assert!(!holds(r#""includes":{"arches":["s390x"]}"#, &[]));
    assert!(!holds(r#""excludes":{"arches":["amd64"]}"#, &[]));
    assert!(holds(r#""includes":{"minKernel":"6.18"}"#, &[]));
    assert!(!holds(r#""includes":{"minKernel":"6.19"}"#, &[]));
    assert!(!holds(r#""excludes":{"minKernel":"4.8"}"#, &[]));
}

#[test]
fn a_refusal_names_what_is_wrong() {
    for (json, named) in [
        ("", "line 1"),
        ("{}", "defaultAction"),
        (r#"{"defaultAction":"SCMP_ACT_DENY"}"#, "SCMP_ACT_DENY"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":{}}"#, "map"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["vax"]}"#,
            "vax",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["FAST"]}"#,
            "FAST",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"]}]}"#,
            "action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],
                "action":"SCMP_ACT_KILL","args":[{"index":0,"value":1,"op":"=="}]}]}"#,
            "==",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],
                "action":"SCMP_ACT_KILL"}]}"#,
            "\"name\" and \"names\"",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                "archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
            "archMap",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],
                "action":"SCMP_ACT_KILL","includes":{"minKernel":"new"}}]}"#,
            "minKernel \"new\"",
        ),
    ] {
        let message = parse(json, &[]).unwrap_err().to_string();
        assert!(message.contains(named), "{json}: {message}");
    }
}

#[test]
fn a_text_beyond_the_bound_is_not_looked_at() {
    let long = vec![b' '; MAX_PROFILE_BYTES + 1];
    let error = parse_profile(&long, &Capabilities::new()).unwrap_err();
    assert!(matches!(error, Error::TooLong { length } if length == long.len()));
}
