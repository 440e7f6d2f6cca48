//! What confines a pod or a container (CRI security contexts).

use super::namespaces::{Scope, namespaces};
use super::text::{absolute_path, one_line};
use super::{Invalid, Parsed, Within, known};
use crisp_cri_api::v1;
use crisp_cri_api::v1::security_profile::ProfileType;
use crisp_model::{ContainerSecurity, GroupsPolicy, PodSecurity, SecurityProfile, SelinuxLabel};

/// Before the name of a loaded profile, in the older spelling; and in the newer one by habit.
const LOCALHOST: &str = "localhost/";

/// What confines a pod.
pub(super) fn pod_security(asked: v1::LinuxSandboxSecurityContext) -> Parsed<PodSecurity> {
    let run_as_user = user_id(asked.run_as_user.as_ref(), "run_as_user")?;
    let run_as_group = user_id(asked.run_as_group.as_ref(), "run_as_group")?;
    group_needs_user(run_as_group, run_as_user.is_some())?;
    Ok(PodSecurity {
        namespaces: namespaces(asked.namespace_options, Scope::Pod).within("namespace_options")?,
        run_as_user,
        run_as_group,
        readonly_rootfs: asked.readonly_rootfs,
        supplemental_groups: groups(&asked.supplemental_groups)?,
        groups_policy: groups_policy(asked.supplemental_groups_policy)?,
        privileged: asked.privileged,
        seccomp: seccomp(asked.seccomp, asked.seccomp_profile_path)?,
        apparmor: apparmor(asked.apparmor, String::new())?,
        selinux: selinux(asked.selinux_options)?,
    })
}

/// What confines a container.
pub(super) fn container_security(
    asked: v1::LinuxContainerSecurityContext,
) -> Parsed<ContainerSecurity> {
    let run_as_user = user_id(asked.run_as_user.as_ref(), "run_as_user")?;
    let run_as_group = user_id(asked.run_as_group.as_ref(), "run_as_group")?;
    let has_user = run_as_user.is_some() || !asked.run_as_username.is_empty();
    group_needs_user(run_as_group, has_user)?;
    let capabilities = asked.capabilities.unwrap_or_default();
    Ok(ContainerSecurity {
        namespaces: namespaces(asked.namespace_options, Scope::Container)
            .within("namespace_options")?,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        add_ambient_capabilities: capabilities.add_ambient_capabilities,
        privileged: asked.privileged,
        run_as_user,
        run_as_group,
        run_as_username: one_line(asked.run_as_username, "run_as_username")?,
        readonly_rootfs: asked.readonly_rootfs,
        supplemental_groups: groups(&asked.supplemental_groups)?,
        groups_policy: groups_policy(asked.supplemental_groups_policy)?,
        no_new_privs: asked.no_new_privs,
        masked_paths: absolute_paths(asked.masked_paths, "masked_paths")?,
        readonly_paths: absolute_paths(asked.readonly_paths, "readonly_paths")?,
        seccomp: seccomp(asked.seccomp, asked.seccomp_profile_path)?,
        apparmor: apparmor(asked.apparmor, asked.apparmor_profile)?,
        selinux: selinux(asked.selinux_options)?,
    })
}

fn user_id(id: Option<&v1::Int64Value>, field: &str) -> Parsed<Option<u32>> {
    id.map(|id| checked_id(id.value, field)).transpose()
}

/// An id that fits a signed 32-bit integer: many programs keep ids in one, where a larger id is
/// another one, or root.
fn checked_id(id: i64, field: &str) -> Parsed<u32> {
    let checked = i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok());
    checked.ok_or_else(|| {
        Invalid::new(
            field,
            format!("id {id} is not between 0 and {max}", max = i32::MAX),
        )
    })
}

fn group_needs_user(group: Option<u32>, has_user: bool) -> Parsed<()> {
    match group.is_some() && !has_user {
        true => Err(Invalid::new("run_as_group", "is set without a user")),
        false => Ok(()),
    }
}

fn groups(ids: &[i64]) -> Parsed<Vec<u32>> {
    ids.iter()
        .map(|id| checked_id(*id, "supplemental_groups"))
        .collect()
}

fn groups_policy(policy: i32) -> Parsed<GroupsPolicy> {
    Ok(match known(policy, "supplemental_groups_policy")? {
        v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn absolute_paths(paths: Vec<String>, field: &str) -> Parsed<Vec<String>> {
    paths
        .into_iter()
        .map(|path| absolute_path(path, field))
        .collect()
}

/// The path of a Localhost profile is one on this host.
fn seccomp(asked: Option<v1::SecurityProfile>, legacy: String) -> Parsed<SecurityProfile> {
    let profile = match asked {
        Some(asked) => structured(asked, "seccomp")?,
        None => spelled(legacy, "seccomp_profile_path")?,
    };
    match profile {
        SecurityProfile::Localhost(path) => {
            absolute_path(path, "seccomp.localhost_ref").map(SecurityProfile::Localhost)
        }
        other => Ok(other),
    }
}

/// A Localhost profile is one that is loaded, by its name.
fn apparmor(asked: Option<v1::SecurityProfile>, legacy: String) -> Parsed<SecurityProfile> {
    let profile = match asked {
        Some(asked) => structured(asked, "apparmor")?,
        None => spelled(legacy, "apparmor_profile")?,
    };
    match profile {
        SecurityProfile::Localhost(name) => {
            let name = name.strip_prefix(LOCALHOST).unwrap_or(&name).to_owned();
            one_line(name, "apparmor.localhost_ref").map(SecurityProfile::Localhost)
        }
        other => Ok(other),
    }
}

fn structured(asked: v1::SecurityProfile, field: &str) -> Parsed<SecurityProfile> {
    match known(asked.profile_type, &format!("{field}.profile_type"))? {
        ProfileType::RuntimeDefault => Ok(SecurityProfile::RuntimeDefault),
        ProfileType::Unconfined => Ok(SecurityProfile::Unconfined),
        ProfileType::Localhost if asked.localhost_ref.is_empty() => {
            Err(Invalid::required(format!("{field}.localhost_ref")))
        }
        ProfileType::Localhost => Ok(SecurityProfile::Localhost(asked.localhost_ref)),
    }
}

/// The older spelling, in one string.
fn spelled(profile: String, field: &str) -> Parsed<SecurityProfile> {
    match profile.as_str() {
        "" => Ok(SecurityProfile::Unset),
        "unconfined" => Ok(SecurityProfile::Unconfined),
        "runtime/default" | "docker/default" => Ok(SecurityProfile::RuntimeDefault),
        other => match other.strip_prefix(LOCALHOST) {
            Some(name) if !name.is_empty() => Ok(SecurityProfile::Localhost(name.to_owned())),
            _ => Err(Invalid::new(
                field,
                format!("{other:?} is neither unconfined, runtime/default nor localhost/…"),
            )),
        },
    }
}

fn selinux(asked: Option<v1::SeLinuxOption>) -> Parsed<Option<SelinuxLabel>> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    let part = |text: String| {
        let text = one_line(text, "selinux_options")?;
        match text.contains(':') {
            true => Err(Invalid::new(
                "selinux_options",
                format!("{text:?} contains a colon"),
            )),
            false => Ok(text),
        }
    };
    let label = SelinuxLabel {
        user: part(asked.user)?,
        role: part(asked.role)?,
        kind: part(asked.r#type)?,
        level: one_line(asked.level, "selinux_options")?,
    };
    Ok((label != SelinuxLabel::default()).then_some(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Context = v1::LinuxContainerSecurityContext;

    fn number(value: i64) -> Option<v1::Int64Value> {
        Some(v1::Int64Value { value })
    }

    fn profile(kind: ProfileType, localhost_ref: &str) -> Option<v1::SecurityProfile> {
        Some(v1::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: localhost_ref.to_owned(),
        })
    }

    #[test]
    fn an_empty_context_confines_nothing() {
        let empty = container_security(Context::default()).unwrap();
        assert_eq!(empty, ContainerSecurity::default());
        let empty = pod_security(v1::LinuxSandboxSecurityContext::default()).unwrap();
        assert_eq!(empty, PodSecurity::default());
    }

    #[test]
    fn profiles_are_understood_in_both_spellings() {
        let host = |name: &str| SecurityProfile::Localhost(name.to_owned());
        for (structured, legacy, expected) in [
            (None, "", SecurityProfile::Unset),
            (None, "unconfined", SecurityProfile::Unconfined),
            (None, "runtime/default", SecurityProfile::RuntimeDefault),
            (None, "docker/default", SecurityProfile::RuntimeDefault),
            (None, "localhost//p.json", host("/p.json")),
            (
                profile(ProfileType::RuntimeDefault, ""),
                "localhost//other.json",
                SecurityProfile::RuntimeDefault,
            ),
            (
                profile(ProfileType::Localhost, "/p.json"),
                "",
                host("/p.json"),
            ),
        ] {
            assert_eq!(
                seccomp(structured.clone(), legacy.to_owned()).unwrap(),
                expected
            );
            let apparmor = apparmor(structured, legacy.to_owned()).unwrap();
            assert_eq!(apparmor, expected);
        }
        let prefixed = profile(ProfileType::Localhost, "localhost/mine");
        assert_eq!(apparmor(prefixed, String::new()).unwrap(), host("mine"));
    }

    #[test]
    fn what_is_malformed_is_refused_by_field() {
        type Change = fn(&mut Context);
        let table: [(&str, Change); 14] = [
            ("run_as_user", |c| c.run_as_user = number(-1)),
            ("run_as_user", |c| c.run_as_user = number(1 << 31)),
            ("run_as_group", |c| {
                c.run_as_user = number(1);
                c.run_as_group = number(1 << 40);
            }),
            ("run_as_group", |c| c.run_as_group = number(1)),
            ("supplemental_groups", |c| c.supplemental_groups = vec![-7]),
            ("supplemental_groups_policy", |c| {
                c.supplemental_groups_policy = 2;
            }),
            ("masked_paths", |c| c.masked_paths = vec!["proc".into()]),
            ("readonly_paths", |c| {
                c.readonly_paths = vec!["/proc/../etc".into()];
            }),
            ("seccomp.profile_type", |c| {
                c.seccomp = Some(v1::SecurityProfile {
                    profile_type: 3,
                    ..Default::default()
                });
            }),
            ("seccomp.localhost_ref", |c| {
                c.seccomp = profile(ProfileType::Localhost, "");
            }),
            ("seccomp.localhost_ref", |c| {
                c.seccomp = profile(ProfileType::Localhost, "relative.json");
            }),
            ("apparmor_profile", |c| c.apparmor_profile = "mine".into()),
            ("selinux_options", |c| {
                c.selinux_options = Some(v1::SeLinuxOption {
                    r#type: "spc_t:s0".into(),
                    ..Default::default()
                });
            }),
            ("namespace_options.network", |c| {
                c.namespace_options = Some(v1::NamespaceOption {
                    network: 1,
                    ..Default::default()
                });
            }),
        ];
        for (field, change) in table {
            let mut asked = Context::default();
            change(&mut asked);
            assert_eq!(container_security(asked).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_group_is_fine_beside_a_user_by_id_or_name() {
        let by_name = Context {
            run_as_username: "www".into(),
            run_as_group: number(7),
            ..Default::default()
        };
        assert_eq!(container_security(by_name).unwrap().run_as_group, Some(7));
        let pod = v1::LinuxSandboxSecurityContext {
            run_as_group: number(7),
            ..Default::default()
        };
        assert_eq!(pod_security(pod).unwrap_err().field, "run_as_group");
    }
}
