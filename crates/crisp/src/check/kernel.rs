//! The kernel's version, its namespaces and what it tells of pressure.

use super::Finding;
use std::fs;
use std::path::Path;

/// The oldest kernel with every call that crisp makes on each start: mount_setattr(2) is of 5.12.
const OLDEST: Version = Version(5, 12);
/// From here on every fast path is there: `lowerdir+` of overlayfs is of 6.7.
const WHOLE: Version = Version(6, 7);

/// Namespaces that every pod needs, and those that only some ask for.
const NEEDED: [&str; 5] = ["net", "ipc", "uts", "pid", "mnt"];
const OPTIONAL: [(&str, &str); 3] = [
    ("user", "pods with hostUsers: false are refused"),
    ("cgroup", "containers see the host's cgroup paths"),
    ("time", "nothing: no pod asks for one yet"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

pub(super) fn findings() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut findings = vec![version(release.trim())];
    findings.extend(namespaces(|kind| {
        Path::new("/proc/self/ns").join(kind).exists()
    }));
    findings.push(user_namespaces(&read_or_empty(
        "/proc/sys/user/max_user_namespaces",
    )));
    findings.push(pressure());
    findings
}

fn read_or_empty(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn version(release: &str) -> Finding {
    let subject = "kernel";
    match parse(release) {
        Some(version) if version >= WHOLE => Finding::fine(subject, release),
        Some(version) if version >= OLDEST => Finding::note(
            subject,
            release,
            "images of more than 60 layers cannot be mounted, and starts are slower",
            "update to Linux 6.7 or later",
        ),
        _ => Finding::missing(
            subject,
            release,
            "system calls are missing that every start of a container makes (mount_setattr)",
            "update to Linux 5.12 or later, best 6.7 or later",
        ),
    }
}

fn parse(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn namespaces(has: impl Fn(&str) -> bool) -> Vec<Finding> {
    let subject = "namespaces";
    let lacking: Vec<&str> = NEEDED.into_iter().filter(|kind| !has(kind)).collect();
    let mut findings = Vec::new();
    if lacking.is_empty() {
        let there = NEEDED
            .into_iter()
            .chain(OPTIONAL.map(|(kind, _)| kind))
            .filter(|kind| has(kind));
        findings.push(Finding::fine(subject, there.collect::<Vec<_>>().join(" ")));
    } else {
        findings.push(Finding::missing(
            subject,
            format!("no {}", lacking.join(", ")),
            "pods cannot be kept apart from the host",
            "use a kernel built with CONFIG_NAMESPACES and its parts",
        ));
    }
    let optional = OPTIONAL.into_iter().filter(|(kind, _)| !has(kind));
    findings.extend(optional.map(|(kind, consequence)| {
        let remedy = format!("use a kernel built with CONFIG_{}_NS", kind.to_uppercase());
        Finding::note(subject, format!("no {kind}"), consequence, remedy)
    }));
    findings
}

fn user_namespaces(max: &str) -> Finding {
    let subject = "user namespaces";
    match max.trim().parse::<u64>() {
        Ok(max) if max > 0 => Finding::fine(subject, format!("at most {max}")),
        _ => Finding::note(
            subject,
            "switched off",
            "pods with hostUsers: false are refused",
            "sysctl user.max_user_namespaces=65536",
        ),
    }
}

fn pressure() -> Finding {
    let subject = "pressure";
    match Path::new("/proc/pressure/cpu").exists() {
        true => Finding::fine(subject, "stall information is kept"),
        false => Finding::note(
            subject,
            "no stall information",
            "figures of pods have no pressure",
            "boot with psi=1, on a kernel built with CONFIG_PSI",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_kernel_is_judged_by_its_version() {
        for (release, fine, missing) in [
            ("6.18.44-fc-v657", true, false),
            ("6.7.0", true, false),
            ("6.1.0-28-cloud-amd64", false, false),
            ("5.12", false, false),
            ("5.4.0", false, true),
            ("4.18.0-553.el8", false, true),
            ("", false, true),
        ] {
            let finding = version(release);
            assert_eq!(finding.verdict == Verdict::Fine, fine, "{release}");
            assert_eq!(finding.is_missing(), missing, "{release}");
        }
    }

    #[test]
    fn a_namespace_that_only_some_pods_need_is_a_note() {
        assert_eq!(namespaces(|_| true).len(), 1);
        let no_user = namespaces(|kind| kind != "user");
        assert_eq!(no_user[1].fact, "no user");
        assert!(!no_user[1].is_missing());
        assert!(namespaces(|kind| kind != "net")[0].is_missing());
    }

    #[test]
    fn user_namespaces_can_be_switched_off() {
        assert_eq!(user_namespaces("10\n").verdict, Verdict::Fine);
        assert_ne!(user_namespaces("0\n").verdict, Verdict::Fine);
    }
}
