//! What containers can be confined by: seccomp, AppArmor, SELinux.

use super::Finding;
use std::fs;
use std::io;
use std::path::Path;

/// Actions that the default profile uses.
const ACTIONS: [&str; 3] = ["allow", "errno", "kill_process"];

pub(super) fn findings() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok();
    vec![
        seccomp(crisp_seccomp::available_actions(Path::new("/proc"))),
        apparmor(
            read("/sys/module/apparmor/parameters/enabled").as_deref(),
            crisp_engine::apparmor_parser().is_some(),
        ),
        selinux(read("/sys/fs/selinux/enforce").as_deref()),
    ]
}

fn seccomp(actions: io::Result<Vec<String>>) -> Finding {
    let subject = "seccomp";
    let known = actions.unwrap_or_default();
    match ACTIONS
        .iter()
        .all(|action| known.iter().any(|k| k == action))
    {
        true => Finding::fine(subject, known.join(" ")),
        false => Finding::missing(
            subject,
            "no filters",
            "containers with RuntimeDefault, which is what `crisp pod run` gives, do not start",
            "use a kernel built with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn apparmor(enabled: Option<&str>, has_parser: bool) -> Finding {
    let subject = "AppArmor";
    match enabled.map(str::trim) {
        Some("Y") if has_parser => Finding::fine(subject, "on"),
        Some("Y") => Finding::note(
            subject,
            "on, without apparmor_parser",
            "containers do not start but with the profile Unconfined or one that is loaded",
            "install apparmor_parser (package apparmor)",
        ),
        _ => Finding::note(
            subject,
            "off",
            "containers that ask for an AppArmor profile by its name are refused",
            "boot with lsm=…,apparmor on a kernel that has it; nothing, if no pod asks for one",
        ),
    }
}

fn selinux(enforce: Option<&str>) -> Finding {
    let subject = "SELinux";
    Finding::fine(
        subject,
        match enforce.map(str::trim) {
            Some("1") => "enforcing",
            Some(_) => "permissive",
            None => "off",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn filters_are_needed_and_profiles_are_not() {
        let actions = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(
            seccomp(actions(&["kill_process", "errno", "allow", "log"])).verdict,
            Verdict::Fine
        );
        assert!(seccomp(actions(&["errno"])).is_missing());
        assert!(seccomp(Err(io::ErrorKind::NotFound.into())).is_missing());
        assert_eq!(apparmor(Some("Y\n"), true).verdict, Verdict::Fine);
        assert_ne!(apparmor(Some("Y\n"), false).verdict, Verdict::Fine);
        assert!(!apparmor(None, false).is_missing());
        assert_eq!(selinux(Some("1")).fact, "enforcing");
    }
}
