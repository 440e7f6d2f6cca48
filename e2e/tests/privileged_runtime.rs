//! The embedded runtime: what the process of a container is, and what it is told when it cannot be.

#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]

mod runtime_bundle;

use runtime_bundle::Bundle;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn privileged_container_runs_as_pid_1_with_its_own_names() {
    let outcome = Bundle::sh("echo $$; hostname; cat /proc/sys/kernel/ns_last_pid; exit 7").run();
    let mut lines = outcome.stdout.lines();
    assert_eq!((lines.next(), lines.next()), (Some("1"), Some("pod")));
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
}

#[test]
fn privileged_container_ends_by_signal_and_tells_which() {
    // PID 1 of a pid namespace cannot kill itself, so it shares the host's.
    let mut bundle = Bundle::sh("kill -TERM $$");
    bundle.without_namespace("pid");
    assert_eq!(bundle.run().signal, Some(15));
}

#[test]
fn privileged_user_has_exactly_its_groups_and_capabilities() {
    let mut bundle =
        Bundle::sh("id; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status");
    bundle.spec["process"]["user"] =
        json!({ "uid": 1000, "gid": 2000, "additionalGids": [2000, 3000] });
    let outcome = bundle.run();
    let text = outcome.output();
    assert!(
        text.contains("uid=1000 gid=2000 groups=2000,3000"),
        "{text}"
    );
    // A user other than root keeps capabilities only if they are ambient.
    assert_eq!(status(text, "CapBnd"), "0000000000000421");
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(text, name), "0000000000000000", "{name}");
    }
    assert_eq!(status(text, "NoNewPrivs"), "0");
}

#[test]
fn privileged_ambient_capabilities_reach_a_user() {
    let mut bundle = Bundle::sh("grep -E '^Cap' /proc/self/status");
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    bundle.spec["process"]["capabilities"]["ambient"] = json!(["CAP_NET_BIND_SERVICE"]);
    bundle.spec["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN"]);
    let outcome = bundle.run();
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(outcome.output(), name), "0000000000000400", "{name}");
    }
}

#[test]
fn privileged_root_without_capabilities_has_none() {
    let mut bundle = Bundle::sh("grep -E '^(Cap|NoNewPrivs)' /proc/self/status");
    bundle.spec["process"]["capabilities"] = Value::Null;
    bundle.spec["process"]["noNewPrivileges"] = json!(true);
    let outcome = bundle.run();
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(outcome.output(), name), "0000000000000000", "{name}");
    }
    assert_eq!(status(outcome.output(), "NoNewPrivs"), "1");
}

fn status<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

#[test]
fn privileged_process_inherits_no_descriptor() {
    let bundle = Bundle::sh("ls -l /proc/self/fd");
    let outcome = bundle.run();
    let open: Vec<&str> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(8))
        .collect();
    // 3 is the directory that ls reads.
    assert_eq!(open, ["0", "1", "2", "3"], "{outcome:?}");
}

#[test]
fn privileged_process_ignores_and_blocks_no_signal() {
    let outcome = Bundle::new(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]).run();
    for name in ["SigBlk", "SigIgn"] {
        assert_eq!(status(outcome.output(), name), "0000000000000000", "{name}");
    }
}

#[test]
fn privileged_user_can_reopen_its_output() {
    let mut bundle = Bundle::sh("echo hello > /dev/stdout");
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(bundle.run().output(), "hello\n");
}

#[test]
fn privileged_rlimits_are_set_and_clamped_to_what_can_be_had() {
    let mut bundle = Bundle::sh("ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -Hl");
    bundle.spec["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        { "type": "RLIMIT_MEMLOCK", "soft": 0, "hard": u64::MAX },
    ]);
    let outcome = bundle.run();
    let lines: Vec<&str> = outcome.output().lines().collect();
    assert_eq!(lines[..3], ["100", "200", "0"]);
}

#[test]
fn privileged_umask_environment_and_working_directory_are_those_asked_for() {
    let mut bundle = Bundle::sh("pwd; echo $A; umask; touch /tmp/f; stat -c %a /tmp/f");
    bundle.spec["process"]["cwd"] = json!("/srv/made/here");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
    bundle.spec["process"]["user"]["umask"] = json!(0o077);
    assert_eq!(bundle.run().output(), "/srv/made/here\nb c\n0077\n600\n");
}

#[test]
fn privileged_oom_score_is_not_inherited_and_set_where_allowed() {
    let mut bundle = Bundle::sh("cat /proc/self/oom_score_adj");
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(bundle.run().output(), "500\n");
    bundle = Bundle::sh("cat /proc/self/oom_score_adj");
    bundle.spec["process"]["oomScoreAdj"] = json!(-500);
    let score: i32 = bundle.run().output().trim().parse().unwrap();
    assert!((-500..=0).contains(&score), "{score}");
}

#[test]
fn privileged_program_that_cannot_run_is_named_with_the_reason() {
    let cases = [
        ("/bin/nope", "exec /bin/nope: no such file or directory"),
        ("nope", "exec nope: executable file not found in $PATH"),
        ("/etc/plain", "exec /etc/plain: permission denied"),
        ("/etc", "exec /etc: permission denied"),
        (
            "/bin/foreign",
            "exec /bin/foreign: exec format error: not a program for this machine's architecture",
        ),
        (
            "/bin/script",
            "exec /bin/script: no such file or directory: its interpreter or dynamic linker is missing",
        ),
        ("locked", "exec /bin/locked: permission denied"),
    ];
    for (program, message) in cases {
        let bundle = Bundle::new(&[program]);
        for (name, content, mode) in [
            ("etc/plain", &b"text"[..], 0o644),
            (
                "bin/foreign",
                b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff",
                0o755,
            ),
            ("bin/script", b"#!/no/interpreter\n", 0o755),
            ("bin/locked", b"#!/bin/sh\n", 0o644),
        ] {
            let path = bundle.path("rootfs").join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(bundle.run().error("NotExecutable"), message);
    }
}

#[test]
fn privileged_working_directory_that_is_none_is_named() {
    let mut bundle = Bundle::new(&["true"]);
    fs::write(bundle.path("rootfs/etc/plain"), "").unwrap();
    bundle.spec["process"]["cwd"] = json!("/etc/plain");
    assert_eq!(
        bundle.run().error("NotExecutable"),
        "change to working directory /etc/plain: not a directory"
    );
}

#[test]
fn privileged_working_directory_cannot_be_one_of_the_host() {
    for directory in [
        "/proc/self/fd/3",
        "/proc/self/fd/7",
        "/proc/1/root",
        "/link",
    ] {
        let mut bundle = Bundle::sh("pwd; ls");
        symlink("/proc/self/fd/4", bundle.path("rootfs/link")).unwrap();
        bundle.spec["process"]["cwd"] = json!(directory);
        let message = bundle.run();
        message.error("NotExecutable");
    }
}

#[test]
fn privileged_program_is_found_by_the_containers_own_path() {
    let mut bundle = Bundle::new(&["tool"]);
    fs::create_dir_all(bundle.path("rootfs/opt/tools")).unwrap();
    symlink("/bin/busybox", bundle.path("rootfs/opt/tools/tool")).unwrap();
    bundle.spec["process"]["env"] = json!(["PATH=/nowhere:/opt/tools"]);
    // busybox says that it has no such applet.
    assert_eq!(bundle.run().code, Some(127));
}

#[test]
fn privileged_terminal_is_the_containers_own_console() {
    let mut bundle = Bundle::sh(
        "tty; stty size; ls /dev/pts; stat -c %u /dev/pts/0; test -c /dev/console && echo console > /dev/console",
    );
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    bundle.job["terminal"] = json!(true);
    let outcome = bundle.run();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..2], ["/dev/pts/0", "43 132"], "{outcome:?}");
    assert_eq!(lines.last(), Some(&"console"), "{outcome:?}");
    assert_eq!(outcome.code, Some(0));
}

#[test]
fn privileged_terminal_belongs_to_its_user_and_controls_its_session() {
    let mut bundle = Bundle::sh("stat -c '%u %g' $(tty); echo tty > /dev/tty");
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    bundle.job["terminal"] = json!(true);
    assert_eq!(bundle.run().stdout, "1000 5\r\ntty\r\n");
}

#[test]
fn privileged_seccomp_filter_holds_with_and_without_no_new_privs() {
    for no_new_privs in [false, true] {
        let mut bundle = Bundle::sh("kill -0 $$; grep -E '^Seccomp:' /proc/self/status");
        bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privs);
        bundle.job["seccomp"] = forbid_kill().into();
        let outcome = bundle.run();
        assert!(
            outcome.stderr.contains("Operation not permitted"),
            "{outcome:?}"
        );
        assert_eq!(status(&outcome.stdout, "Seccomp"), "2", "{no_new_privs}");
    }
}

/// Load the number; if it is kill's, return EPERM, else allow (linux/filter.h, linux/seccomp.h).
fn forbid_kill() -> Vec<u8> {
    let kill = u32::try_from(nix::libc::SYS_kill).unwrap();
    let instructions: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, kill),
        (0x06, 0, 0, 0x0005_0001),
        (0x06, 0, 0, 0x7fff_0000),
    ];
    let bytes = |(code, jt, jf, k): (u16, u8, u8, u32)| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_ne_bytes());
        bytes
    };
    instructions.into_iter().flat_map(bytes).collect()
}

#[test]
fn privileged_profile_that_is_not_there_is_refused() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["process"]["apparmorProfile"] = json!("crisp-none");
    let outcome = bundle.run();
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let reason = match enabled.is_ok_and(|text| text.starts_with('Y')) {
        true => "is not loaded",
        false => "without AppArmor",
    };
    assert!(outcome.error("InvalidSpec").contains(reason), "{outcome:?}");
}

#[test]
fn privileged_broken_spec_is_refused_with_its_place() {
    let bundle = Bundle::new(&["true"]);
    let job = bundle.write();
    fs::write(bundle.path("config.json"), "{ \"ociVersion\": 1").unwrap();
    let output = std::process::Command::new(runtime_bundle::DRIVER)
        .arg(job)
        .output()
        .unwrap();
    let outcome = runtime_bundle::parse(&output.stdout).remove(0);
    assert!(
        outcome.error("InvalidSpec").contains("line 1"),
        "{outcome:?}"
    );
}

#[test]
fn privileged_abandoned_start_leaves_no_process() {
    let mut bundle = Bundle::sh("sleep 1000");
    bundle.job["abandon"] = json!(true);
    for alone in [true, false] {
        bundle.job["alone"] = json!(alone);
        // The driver ends only when it has no child any more.
        assert!(bundle.run().failure.is_none());
    }
}

#[test]
fn privileged_process_is_the_same_whether_one_child_makes_it_or_two() {
    let mut bundle = Bundle::sh("echo $$ /proc/[0-9]* /proc/self/fd/*");
    let mut failing = Bundle::new(&["/bin/missing"]);
    let [one, two] = [true, false].map(|alone| {
        for bundle in [&mut bundle, &mut failing] {
            bundle.job["alone"] = json!(alone);
        }
        let failed = failing.run();
        (
            bundle.run().output().to_owned(),
            failed.error("NotExecutable").to_owned(),
        )
    });
    assert_eq!(one, two);
    assert!(one.0.starts_with("1 /proc/1 /proc/self/fd/0 "), "{one:?}");
}

#[test]
fn privileged_process_is_born_in_no_pid_namespace_that_is_not_its_own() {
    let refused = |change: fn(&mut Bundle)| {
        let mut bundle = Bundle::sh("echo executed");
        change(&mut bundle);
        bundle.job["alone"] = json!(true);
        let outcome = bundle.run();
        let message = outcome.error("InvalidSpec");
        assert!(message.contains("born in its pid namespace"), "{message}");
    };
    refused(|bundle| bundle.without_namespace("pid"));
    refused(|bundle| bundle.namespace("pid", Some("/proc/self/ns/pid".as_ref())));
    refused(|bundle| bundle.namespace("user", None));
    refused(|bundle| {
        let hook = json!({ "path": bundle.path("rootfs/bin/true") });
        bundle.spec["hooks"] = json!({ "poststop": [hook] });
    });
}
