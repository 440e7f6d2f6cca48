//! What containers can be confined by: seccomp, AppArmor, SELinux.

use super::Finding;
use crisp_engine::AppArmorPresence;
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
            AppArmorPresence::here(),
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

fn apparmor(presence: AppArmorPresence, has_parser: bool) -> Finding {
    let subject = "AppArmor";
    match presence {
        AppArmorPresence::On if has_parser => Finding::fine(subject, "on"),
        AppArmorPresence::On => Finding::note(
            subject,
            "on, without apparmor_parser",
            "containers do not start but with the profile Unconfined or one that is loaded",
            "install apparmor_parser (package apparmor)",
        ),
        AppArmorPresence::Hidden => Finding::note(
            subject,
            "on, without /sys/kernel/security",
            "containers run without a profile, and those that ask for one by its name are refused",
            "mount securityfs at /sys/kernel/security",
        ),
        AppArmorPresence::Off => Finding::note(
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
        assert_eq!(apparmor(AppArmorPresence::On, true).verdict, Verdict::Fine);
        assert_ne!(apparmor(AppArmorPresence::On, false).verdict, Verdict::Fine);
        let hidden = apparmor(AppArmorPresence::Hidden, true);
        assert!(hidden.verdict != Verdict::Fine && !hidden.is_missing());
        assert!(!apparmor(AppArmorPresence::Off, false).is_missing());
        assert_eq!(selinux(Some("1")).fact, "enforcing");
    }
}
