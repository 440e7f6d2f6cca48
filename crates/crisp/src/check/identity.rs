//! Whom crisp runs as: root, with which capabilities.

use super::Finding;
use crisp_sys::security::{Capabilities, capabilities};

/// Names by number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Capabilities without which no pod starts, and what fails first.
const NEEDED: [(&str, &str); 7] = [
    ("SYS_ADMIN", "namespaces and mounts cannot be made"),
    ("NET_ADMIN", "pods cannot be wired"),
    ("CHOWN", "images cannot be unpacked"),
    ("DAC_OVERRIDE", "files of other users cannot be read"),
    ("SETUID", "containers cannot change their user"),
    ("SETGID", "containers cannot change their groups"),
    ("KILL", "containers cannot be stopped"),
];

/// Capabilities without which something does not work.
const WANTED: [(&str, &str); 5] = [
    (
        "SYS_RESOURCE",
        "a negative oom_score_adj is refused and hard rlimits cannot be raised: crisp applies what the kernel allows",
    ),
    ("MKNOD", "images with device nodes cannot be unpacked"),
    ("SETFCAP", "files in images lose their capabilities"),
    (
        "SETPCAP",
        "containers cannot be made to drop capabilities for good",
    ),
    (
        "SYS_PTRACE",
        "namespaces of other users' processes cannot be opened",
    ),
];

const REMEDY: &str =
    "start crisp from systemd, or from a shell that holds it: capsh --print shows what it holds";

pub(super) fn findings() -> Vec<Finding> {
    let is_root = nix::unistd::geteuid().is_root();
    let mut findings = vec![root(is_root)];
    // Who is not root lacks them all. Linux always tells which are held.
    if is_root && let Ok(held) = capabilities() {
        findings.extend(held_capabilities(held.effective, Capabilities::known()));
    }
    findings
}

fn root(is_root: bool) -> Finding {
    match is_root {
        true => Finding::fine("root", "yes"),
        false => Finding::missing(
            "root",
            "no",
            "the daemon does not start, and some of what follows cannot be told",
            "run it with sudo",
        ),
    }
}

fn held_capabilities(held: Capabilities, known: Capabilities) -> Vec<Finding> {
    let subject = "capabilities";
    let lacking: Vec<&str> = known
        .numbers()
        .filter(|number| !held.contains(*number))
        .filter_map(|number| NAMES.get(usize::try_from(number).ok()?).copied())
        .collect();
    if lacking.is_empty() {
        return vec![Finding::fine(subject, "all")];
    }
    let of = |table: &'static [(&'static str, &'static str)]| {
        table.iter().filter(|(name, _)| lacking.contains(name))
    };
    let mut findings: Vec<Finding> = of(&NEEDED)
        .map(|(name, consequence)| {
            Finding::missing(subject, format!("no CAP_{name}"), *consequence, REMEDY)
        })
        .collect();
    findings.extend(of(&WANTED).map(|(name, consequence)| {
        Finding::note(subject, format!("no CAP_{name}"), *consequence, REMEDY)
    }));
    let told = |name: &&str| NEEDED.iter().chain(&WANTED).any(|(known, _)| known == name);
    let others: Vec<&str> = lacking.iter().filter(|name| !told(name)).copied().collect();
    if !others.is_empty() {
        let fact = format!("no CAP_{}", others.join(", CAP_"));
        findings.push(Finding::note(
            subject,
            fact,
            "privileged containers go without, too",
            REMEDY,
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const ALL: Capabilities = Capabilities((1 << 41) - 1);

    fn without(numbers: &[u32]) -> Vec<Finding> {
        let mask = numbers.iter().fold(0, |mask, number| mask | 1 << number);
        held_capabilities(Capabilities(ALL.0 & !mask), ALL)
    }

    #[test]
    fn capabilities_have_their_own_consequences() {
        assert_eq!(without(&[])[0].verdict, Verdict::Fine);
        let resource = &without(&[24])[0];
        assert_eq!(resource.fact, "no CAP_SYS_RESOURCE");
        assert!(
            matches!(&resource.verdict, Verdict::Note(advice) if advice.consequence.contains("oom_score_adj"))
        );
        let admin = without(&[21, 16, 17]);
        assert!(admin[0].is_missing());
        assert_eq!(admin[1].fact, "no CAP_SYS_MODULE, CAP_SYS_RAWIO");
    }

    #[test]
    fn every_capability_that_is_looked_for_has_a_number() {
        for (name, _) in NEEDED.iter().chain(&WANTED) {
            assert!(NAMES.contains(name), "{name}");
        }
    }
}
