//! What confines pods and containers (core/v1 security contexts), as the kubelet sends it.

use super::Invalid;
use super::schema::{
    Container, ContainerSecurity, GroupsPolicy, Pod, PodSecurity, ProcMount, Profile, ProfileType,
    SelinuxOptions, Spec,
};
use crisp_cri_api::v1;
use std::path::Path;

/// Where `localhostProfile` of a seccomp profile is looked for: the kubelet's directory.
const SECCOMP_DIR: &str = "/var/lib/kubelet/seccomp";

/// Parts of /proc and /sys that tell of the host, or change it.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Parts of /proc that may be read.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What confines the pod as a whole.
pub(super) fn of_pod(spec: &Spec) -> v1::LinuxSandboxSecurityContext {
    let asked = &spec.security_context;
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        selinux_options: asked.se_linux_options.as_ref().map(selinux),
        run_as_user: number(asked.run_as_user),
        // Meaningless without a user.
        run_as_group: asked.run_as_user.and_then(|_| number(asked.run_as_group)),
        supplemental_groups: groups(asked),
        supplemental_groups_policy: groups_policy(asked.supplemental_groups_policy),
        privileged: spec
            .all_containers()
            .any(|container| container.security_context.privileged),
        seccomp: Some(seccomp(asked.seccomp_profile.as_ref())),
        apparmor: asked.app_armor_profile.as_ref().map(profile),
        ..Default::default()
    }
}

/// What confines one of its containers: its own words, or else the pod's.
pub(super) fn of_container(
    container: &Container,
    spec: &Spec,
) -> v1::LinuxContainerSecurityContext {
    let (own, pod) = (&container.security_context, &spec.security_context);
    let unmasked = own.privileged || own.proc_mount == ProcMount::Unmasked;
    let paths = |paths: &[&str]| match unmasked {
        true => Vec::new(),
        false => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: own.capabilities.add.clone(),
            drop_capabilities: own.capabilities.drop.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged,
        namespace_options: Some(namespaces(spec)),
        selinux_options: own
            .se_linux_options
            .as_ref()
            .or(pod.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: number(own.run_as_user.or(pod.run_as_user)),
        run_as_group: number(own.run_as_group.or(pod.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem,
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod.supplemental_groups_policy),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp(
            own.seccomp_profile
                .as_ref()
                .or(pod.seccomp_profile.as_ref()),
        )),
        apparmor: own
            .app_armor_profile
            .as_ref()
            .or(pod.app_armor_profile.as_ref())
            .map(profile),
        ..Default::default()
    }
}

fn namespaces(spec: &Spec) -> v1::NamespaceOption {
    use v1::NamespaceMode::{Container, Node, Pod};
    let own_unless = |host: bool| if host { Node } else { Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (true, _) => Node,
        (false, true) => Pod,
        (false, false) => Container,
    };
    v1::NamespaceOption {
        network: own_unless(spec.host_network).into(),
        pid: pid.into(),
        ipc: own_unless(spec.host_ipc).into(),
        ..Default::default()
    }
}

fn number(id: Option<u32>) -> Option<v1::Int64Value> {
    id.map(|id| v1::Int64Value { value: id.into() })
}

fn groups(asked: &PodSecurity) -> Vec<i64> {
    let groups = asked.fs_group.iter().chain(&asked.supplemental_groups);
    groups.map(|id| i64::from(*id)).collect()
}

fn groups_policy(policy: GroupsPolicy) -> i32 {
    match policy {
        GroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge.into(),
        GroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict.into(),
    }
}

fn selinux(options: &SelinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone(),
        role: options.role.clone(),
        r#type: options.r#type.clone(),
        level: options.level.clone(),
    }
}

/// Who says nothing gets the runtime's profile: a manifest run by hand should not get more than a
/// kubelet with `seccompDefault` would give it.
fn seccomp(asked: Option<&Profile>) -> v1::SecurityProfile {
    let mut seccomp = asked.map(profile).unwrap_or_default();
    if !seccomp.localhost_ref.is_empty() {
        let path = Path::new(SECCOMP_DIR).join(&seccomp.localhost_ref);
        seccomp.localhost_ref = path.display().to_string();
    }
    seccomp
}

fn profile(asked: &Profile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType as Wire;
    let (kind, localhost_ref) = match asked.r#type {
        ProfileType::RuntimeDefault => (Wire::RuntimeDefault, String::new()),
        ProfileType::Unconfined => (Wire::Unconfined, String::new()),
        ProfileType::Localhost => (Wire::Localhost, asked.localhost_profile.clone()),
    };
    v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

/// Refuses a container that must not run as root and would (`runAsNonRoot`), by its image's user when
/// the manifest names none.
pub(crate) fn must_not_be_root(
    pod: &Pod,
    container: &Container,
    image: &v1::Image,
) -> Result<(), Invalid> {
    let ContainerSecurity {
        run_as_non_root,
        run_as_user,
        ..
    } = &container.security_context;
    let of_pod = &pod.spec.security_context;
    if run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let of_image = image.uid.as_ref().map(|uid| uid.value);
    let refuse = |reason: String| {
        Err(Invalid::new(
            format!("container {}: runAsNonRoot", container.name),
            reason,
        ))
    };
    match (
        run_as_user
            .or(of_pod.run_as_user)
            .map(i64::from)
            .or(of_image),
        image.username.as_str(),
    ) {
        (Some(0), _) => refuse("it would run as root: set runAsUser".to_owned()),
        (Some(_), _) => Ok(()),
        (None, "") => refuse("the image runs as root: set runAsUser".to_owned()),
        (None, name) => refuse(format!(
            "the image's user {name:?} is not a number: set runAsUser"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(pod_security: Value, container_security: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {
                "securityContext": pod_security,
                "containers": [{"name": "c", "image": "i", "securityContext": container_security}],
            },
        }))
        .unwrap()
    }

    fn confined(pod: &Pod) -> v1::LinuxContainerSecurityContext {
        of_container(&pod.spec.containers[0], &pod.spec)
    }

    #[test]
    fn who_asks_for_nothing_is_confined_by_default() {
        let security = confined(&pod(json!({}), json!({})));
        assert_eq!(security.seccomp.unwrap(), v1::SecurityProfile::default());
        assert!(security.masked_paths.contains(&"/proc/kcore".to_owned()));
        assert!(!security.no_new_privs && !security.privileged);
        let options = security.namespace_options.unwrap();
        assert_eq!(options.pid(), v1::NamespaceMode::Container);
        assert_eq!(options.network(), v1::NamespaceMode::Pod);
    }

    #[test]
    fn a_containers_words_go_before_the_pods() {
        let pod = pod(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
                   "seccompProfile": {"type": "Unconfined"}}),
            json!({"runAsUser": 5, "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"},
                   "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}),
        );
        let security = confined(&pod);
        assert_eq!(security.run_as_user, number(Some(5)));
        assert_eq!(security.run_as_group, number(Some(2)));
        assert_eq!(security.supplemental_groups, [3, 4]);
        assert_eq!(
            security.seccomp.unwrap().localhost_ref,
            "/var/lib/kubelet/seccomp/a/b.json"
        );
        assert!(security.no_new_privs);
        assert_eq!(security.capabilities.unwrap().drop_capabilities, ["ALL"]);
        let whole = of_pod(&pod.spec);
        assert_eq!(
            whole.seccomp.unwrap().profile_type(),
            v1::security_profile::ProfileType::Unconfined
        );
    }

    #[test]
    fn a_privileged_container_makes_a_privileged_pod_and_masks_nothing() {
        let pod = pod(json!({}), json!({"privileged": true}));
        assert!(confined(&pod).masked_paths.is_empty());
        assert!(of_pod(&pod.spec).privileged);
    }

    #[test]
    fn who_must_not_be_root_is_refused_as_root() {
        let image = |uid: Option<i64>, username: &str| v1::Image {
            uid: uid.map(|value| v1::Int64Value { value }),
            username: username.to_owned(),
            ..Default::default()
        };
        for (pod_security, security, image, allowed) in [
            (json!({}), json!({}), image(None, ""), true),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                image(None, ""),
                false,
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                image(None, "www"),
                false,
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                image(Some(7), ""),
                true,
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({"runAsUser": 0}),
                image(Some(7), ""),
                false,
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({"runAsNonRoot": false}),
                image(None, ""),
                true,
            ),
            (
                json!({"runAsUser": 7}),
                json!({"runAsNonRoot": true}),
                image(None, ""),
                true,
            ),
        ] {
            let pod = pod(pod_security, security);
            let verdict = must_not_be_root(&pod, &pod.spec.containers[0], &image);
            assert_eq!(verdict.is_ok(), allowed, "{verdict:?}");
        }
    }
}
