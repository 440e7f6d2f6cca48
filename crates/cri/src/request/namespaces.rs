//! Where a pod's or container's namespaces come from (CRI `NamespaceOption`).

use super::{Invalid, Parsed, known};
use crisp_cri_api::v1;
use crisp_model::{IdMapping, NamespaceMode, NamespaceModes, UserNamespace};

/// Whose namespaces are asked for: only a container can share another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Pod,
    Container,
}

/// The namespaces; a message that is absent asks for the pod's.
pub(super) fn namespaces(
    asked: Option<v1::NamespaceOption>,
    scope: Scope,
) -> Parsed<NamespaceModes> {
    let asked = asked.unwrap_or_default();
    Ok(NamespaceModes {
        network: shared(asked.network, "network")?,
        pid: pid(&asked, scope)?,
        ipc: shared(asked.ipc, "ipc")?,
        user: asked
            .userns_options
            .map(user)
            .transpose()
            .map(Option::flatten)?,
    })
}

/// Network and ipc: a container never has its own.
fn shared(mode: i32, field: &str) -> Parsed<NamespaceMode> {
    match known(mode, field)? {
        v1::NamespaceMode::Pod => Ok(NamespaceMode::Pod),
        v1::NamespaceMode::Node => Ok(NamespaceMode::Node),
        other => Err(not_for(other, field, "POD or NODE")),
    }
}

fn pid(asked: &v1::NamespaceOption, scope: Scope) -> Parsed<NamespaceMode> {
    match (known(asked.pid, "pid")?, scope) {
        (v1::NamespaceMode::Pod, _) => Ok(NamespaceMode::Pod),
        (v1::NamespaceMode::Container, _) => Ok(NamespaceMode::Container),
        (v1::NamespaceMode::Node, _) => Ok(NamespaceMode::Node),
        (v1::NamespaceMode::Target, Scope::Container) => target(&asked.target_id),
        (other, Scope::Pod) => Err(not_for(other, "pid", "POD, CONTAINER or NODE")),
    }
}

fn target(id: &str) -> Parsed<NamespaceMode> {
    if id.is_empty() {
        return Err(Invalid::required("target_id"));
    }
    let id = id
        .parse()
        .map_err(|_| Invalid::new("target_id", format!("{id:?} is not a container's id")))?;
    Ok(NamespaceMode::Target(id))
}

fn not_for(mode: v1::NamespaceMode, field: &str, wanted: &str) -> Invalid {
    Invalid::new(
        field,
        format!("{} is not possible here: {wanted}", mode.as_str_name()),
    )
}

/// The pod's user namespace; none: the host's.
fn user(asked: v1::UserNamespace) -> Parsed<Option<UserNamespace>> {
    match known(asked.mode, "userns_options.mode")? {
        v1::NamespaceMode::Pod => Ok(Some(UserNamespace {
            uids: from_zero(&asked.uids, "userns_options.uids")?,
            gids: from_zero(&asked.gids, "userns_options.gids")?,
        })),
        v1::NamespaceMode::Node if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        v1::NamespaceMode::Node => Err(Invalid::new(
            "userns_options",
            "there are no mappings in the host's user namespace (mode NODE)",
        )),
        other => Err(not_for(other, "userns_options.mode", "POD or NODE")),
    }
}

/// Exactly one mapping, which begins with the container's root.
fn from_zero(mappings: &[v1::IdMapping], field: &str) -> Parsed<IdMapping> {
    let [mapping] = mappings else {
        let reason = format!("there are {} mappings instead of one", mappings.len());
        return Err(Invalid::new(field, reason));
    };
    if mapping.container_id != 0 {
        let reason = format!(
            "the mapping starts at container id {}, not at 0",
            mapping.container_id
        );
        return Err(Invalid::new(field, reason));
    }
    id_mapping(mapping, field)
}

/// A range of ids that is neither empty nor beyond the last id.
pub(super) fn id_mapping(mapping: &v1::IdMapping, field: &str) -> Parsed<IdMapping> {
    let fits = |first: u32| first.checked_add(mapping.length).is_some();
    if mapping.length == 0 || !fits(mapping.host_id) || !fits(mapping.container_id) {
        let reason = format!("a range of {} ids is not possible here", mapping.length);
        return Err(Invalid::new(field, reason));
    }
    Ok(IdMapping {
        container_id: mapping.container_id,
        host_id: mapping.host_id,
        length: mapping.length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;
    use v1::NamespaceMode::{Container, Node, Pod, Target};

    fn modes(network: v1::NamespaceMode, pid: v1::NamespaceMode) -> v1::NamespaceOption {
        v1::NamespaceOption {
            network: network.into(),
            pid: pid.into(),
            ..Default::default()
        }
    }

    fn mapping(container_id: u32, length: u32) -> v1::IdMapping {
        v1::IdMapping {
            host_id: 100_000,
            container_id,
            length,
        }
    }

    fn user_namespace(mode: v1::NamespaceMode, uids: Vec<v1::IdMapping>) -> v1::NamespaceOption {
        v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace {
                mode: mode.into(),
                gids: uids.clone(),
                uids,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_can_be_asked_for_comes_back_in_the_status() {
        for asked in [
            modes(Pod, Pod),
            modes(Node, Container),
            modes(Pod, Node),
            v1::NamespaceOption {
                pid: Target.into(),
                target_id: "ab".repeat(32),
                ..Default::default()
            },
            user_namespace(Pod, vec![mapping(0, 65536)]),
        ] {
            let parsed = namespaces(Some(asked.clone()), Scope::Container).unwrap();
            assert_eq!(answer::namespaces(&parsed), asked);
        }
        let host = namespaces(Some(user_namespace(Node, vec![])), Scope::Pod).unwrap();
        assert_eq!(host, NamespaceModes::default());
        assert_eq!(
            namespaces(None, Scope::Pod).unwrap(),
            NamespaceModes::default()
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        let target = v1::NamespaceOption {
            pid: Target.into(),
            ..Default::default()
        };
        let unknown = v1::NamespaceOption {
            ipc: 9,
            ..Default::default()
        };
        let two = vec![mapping(0, 10), mapping(10, 10)];
        for (asked, scope, field) in [
            (modes(Container, Pod), Scope::Container, "network"),
            (modes(Target, Pod), Scope::Pod, "network"),
            (modes(Pod, Target), Scope::Pod, "pid"),
            (target, Scope::Container, "target_id"),
            (unknown, Scope::Pod, "ipc"),
            (
                user_namespace(Container, vec![]),
                Scope::Pod,
                "userns_options.mode",
            ),
            (
                user_namespace(Target, vec![]),
                Scope::Pod,
                "userns_options.mode",
            ),
            (
                user_namespace(Pod, vec![]),
                Scope::Pod,
                "userns_options.uids",
            ),
            (user_namespace(Pod, two), Scope::Pod, "userns_options.uids"),
            (
                user_namespace(Pod, vec![mapping(1, 10)]),
                Scope::Pod,
                "userns_options.uids",
            ),
            (
                user_namespace(Pod, vec![mapping(0, 0)]),
                Scope::Pod,
                "userns_options.uids",
            ),
            (
                user_namespace(Pod, vec![mapping(0, u32::MAX)]),
                Scope::Pod,
                "userns_options.uids",
            ),
            (
                user_namespace(Node, vec![mapping(0, 10)]),
                Scope::Pod,
                "userns_options",
            ),
        ] {
            let invalid = namespaces(Some(asked.clone()), scope).unwrap_err();
            assert_eq!(invalid.field, field, "{asked:?}");
        }
    }
}
