//! AppArmor: which profile confines a container, and the default one.
//!
//! The kernel is asked what is loaded, in securityfs. The default profile is loaded by
//! apparmor_parser(8), for only that program compiles profiles: when the first container in the life of a
//! daemon needs it, so that the profile is always the one of the daemon's own version, and again when
//! somebody has removed it. Without AppArmor in the kernel, or without a way to it (in a container that is a
//! node, say, which has no securityfs), containers run without a profile, unless one is asked for by name.

use crate::error::{Error, Result, chain};
use crisp_helper::Helper;
use crisp_model::{ContainerSecurity, SecurityProfile};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

/// The name of the profile that confines containers unless they ask for another.
const DEFAULT_NAME: &str = "crisp-default";

/// Its text, for apparmor_parser.
const DEFAULT_TEXT: &str = include_str!("apparmor.profile");

/// Where the program may be, besides the directories of `PATH`.
const ADMINISTRATORS_DIRS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// How long compiling and loading the default profile may take.
const PARSER_TIMEOUT: Duration = Duration::from_secs(30);

/// What it may say.
const PARSER_OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Names what is loaded, one `name (mode)` a line (Documentation/admin-guide/LSM/apparmor.rst).
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What a host has of AppArmor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppArmorPresence {
    Off,
    /// On, but nobody can be asked what is loaded: there is no securityfs.
    Hidden,
    On,
}

impl AppArmorPresence {
    /// Looks at this host.
    #[must_use]
    pub fn here() -> Self {
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        Self::of(enabled.ok().as_deref(), Path::new(PROFILES).exists())
    }

    fn of(enabled: Option<&str>, has_profiles: bool) -> Self {
        match enabled.map(str::trim) {
            Some("Y") if has_profiles => Self::On,
            Some("Y") => Self::Hidden,
            _ => Self::Off,
        }
    }
}

/// The host's AppArmor.
#[derive(Debug)]
pub(crate) struct AppArmor {
    state: State,
    /// Held while it is loaded.
    default: Mutex<DefaultProfile>,
}

#[derive(Debug)]
enum State {
    Off,
    On {
        /// See [`PROFILES`].
        profiles: PathBuf,
    },
}

/// What is loaded under the default profile's name, if anything is.
#[derive(Debug, Default, PartialEq, Eq)]
enum DefaultProfile {
    /// Nobody knows: it may be of another version.
    #[default]
    Foreign,
    /// What this daemon has loaded.
    Ours,
}

/// The profile of a container.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    None,
    Default,
    /// One that must be loaded.
    Named(&'a str),
}

impl AppArmor {
    pub(crate) fn inspect() -> Self {
        let state = match AppArmorPresence::here() {
            AppArmorPresence::Off => State::Off,
            AppArmorPresence::Hidden => {
                tracing::warn!(
                    "AppArmor is on, but /sys/kernel/security is not mounted: containers run without profiles"
                );
                State::Off
            }
            AppArmorPresence::On => State::On {
                profiles: PROFILES.into(),
            },
        };
        Self {
            state,
            default: Mutex::default(),
        }
    }

    /// The name of the profile that confines a container, which is loaded then; none: nothing does.
    ///
    /// # Errors
    /// If a profile is asked for that is not to be had.
    pub(crate) async fn profile(&self, security: &ContainerSecurity) -> Result<Option<String>> {
        let choice = choose(security);
        let State::On { profiles } = &self.state else {
            return match choice {
                Choice::Named(name) => Err(Error::Unsupported(format!(
                    "AppArmor profile {name:?} cannot be applied: this host runs without AppArmor, or without /sys/kernel/security"
                ))),
                Choice::None | Choice::Default => Ok(None),
            };
        };
        let loaded = || std::fs::read_to_string(profiles).map_err(Error::io("read", profiles));
        match choice {
            Choice::None => Ok(None),
            Choice::Named(name) if is_loaded(&loaded()?, name) => Ok(Some(name.to_owned())),
            Choice::Named(name) => Err(Error::FailedPrecondition(format!(
                "AppArmor profile {name:?} is not loaded on this host"
            ))),
            Choice::Default => {
                let mut default = self.default.lock().await;
                let is_loaded = is_loaded(&loaded()?, DEFAULT_NAME);
                if !is_loaded || *default == DefaultProfile::Foreign {
                    load_default(is_loaded).await?;
                    *default = DefaultProfile::Ours;
                }
                Ok(Some(DEFAULT_NAME.to_owned()))
            }
        }
    }
}

/// As containerd has it: what asks for nothing gets the default profile, unless it is privileged; and
/// a profile that is named counts even then.
fn choose(security: &ContainerSecurity) -> Choice<'_> {
    match &security.apparmor {
        SecurityProfile::Unconfined => Choice::None,
        SecurityProfile::Localhost(name) => Choice::Named(name),
        SecurityProfile::RuntimeDefault | SecurityProfile::Unset if security.privileged => {
            Choice::None
        }
        SecurityProfile::RuntimeDefault | SecurityProfile::Unset => Choice::Default,
    }
}

fn is_loaded(profiles: &str, name: &str) -> bool {
    let mut names = profiles.lines().filter_map(|line| line.rsplit_once(" ("));
    names.any(|(loaded, _mode)| loaded == name)
}

/// Where the program is that loads profiles; none: it is not installed.
#[must_use]
pub fn apparmor_parser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(std::env::split_paths(ADMINISTRATORS_DIRS));
    all.map(|dir| dir.join("apparmor_parser"))
        .find(|program| program.is_file())
}

/// Loads the default profile. One that is loaded already, by another daemon or an administrator, does
/// when there is no program to load ours.
async fn load_default(is_loaded: bool) -> Result<()> {
    let why = match apparmor_parser() {
        None if is_loaded => return Ok(()),
        None => "apparmor_parser is not installed (package apparmor)".to_owned(),
        Some(program) => match parser(program).run().await {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let complaint = String::from_utf8_lossy(&output.stderr);
                format!("apparmor_parser: {}", complaint.trim())
            }
            Err(error) => chain(&error),
        },
    };
    Err(Error::FailedPrecondition(format!(
        "the AppArmor profile {DEFAULT_NAME:?}, which this container needs, cannot be loaded: {why}"
    )))
}

/// The program, which reads the profile from its standard input and replaces what has the same name.
fn parser(program: PathBuf) -> Helper {
    Helper {
        program,
        args: vec!["--replace".into(), "--skip-cache".into()],
        env: Vec::new(),
        input: DEFAULT_TEXT.into(),
        timeout: PARSER_TIMEOUT,
        max_output_bytes: PARSER_OUTPUT_BYTES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(apparmor: SecurityProfile, privileged: bool) -> ContainerSecurity {
        ContainerSecurity {
            apparmor,
            privileged,
            ..ContainerSecurity::default()
        }
    }

    #[test]
    fn what_cannot_be_asked_is_hidden() {
        use AppArmorPresence::{Hidden, Off, On};
        for (enabled, has_profiles, expected) in [
            (Some("Y\n"), true, On),
            (Some("Y\n"), false, Hidden),
            (Some("N\n"), true, Off),
            (None, false, Off),
        ] {
            assert_eq!(AppArmorPresence::of(enabled, has_profiles), expected);
        }
    }

    #[test]
    fn the_default_profile_confines_what_is_not_privileged_and_asks_for_no_other() {
        use SecurityProfile::{Localhost, RuntimeDefault, Unconfined, Unset};
        let named = || Localhost("mine".into());
        for (profile, privileged, expected) in [
            (Unset, false, Choice::Default),
            (RuntimeDefault, false, Choice::Default),
            (Unconfined, false, Choice::None),
            (named(), false, Choice::Named("mine")),
            (Unset, true, Choice::None),
            (RuntimeDefault, true, Choice::None),
            (Unconfined, true, Choice::None),
            (named(), true, Choice::Named("mine")),
        ] {
            assert_eq!(choose(&asked(profile, privileged)), expected);
        }
    }

    #[tokio::test]
    async fn without_apparmor_only_a_profile_by_name_is_an_error() {
        let off = AppArmor {
            state: State::Off,
            default: Mutex::default(),
        };
        for fine in [SecurityProfile::Unset, SecurityProfile::RuntimeDefault] {
            assert_eq!(off.profile(&asked(fine, false)).await.unwrap(), None);
        }
        let named = asked(SecurityProfile::Localhost("mine".into()), true);
        let refused = off.profile(&named).await.unwrap_err();
        assert!(matches!(&refused, Error::Unsupported(text) if text.contains("mine")));
    }

    #[tokio::test]
    async fn a_named_profile_must_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = dir.path().join("profiles");
        let text = "/usr/bin/man (enforce)\nmine (complain)\nwith (odd) name (enforce)\n";
        std::fs::write(&profiles, text).unwrap();
        let on = AppArmor {
            state: State::On { profiles },
            default: Mutex::default(),
        };
        for (name, loaded) in [
            ("mine", true),
            ("with (odd) name", true),
            ("min", false),
            ("mine (complain)", false),
        ] {
            let asked = asked(SecurityProfile::Localhost(name.into()), false);
            assert_eq!(on.profile(&asked).await.is_ok(), loaded, "{name}");
        }
    }
}
