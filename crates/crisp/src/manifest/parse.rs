//! The text of a manifest → [`Pod`]s, with everything that is wrong told at once.

use super::ignored::{Meaning, meaning};
use super::schema::{Container, Pod, RestartPolicy, Spec, Volume};
use super::{Invalid, resources};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;

/// The longest name of a pod, in letters (a DNS subdomain, RFC 1123).
const POD_NAME_MAX: usize = 253;
/// The longest name of a namespace, container or volume, in letters (a DNS label, RFC 1123).
const LABEL_MAX: usize = 63;

/// What a manifest says.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) pods: Vec<Pod>,
    /// Fields that mean nothing here, for the person to know.
    pub(crate) notes: Vec<String>,
}

/// Reads a manifest of one or several documents.
///
/// # Errors
/// If it is no YAML, or one of its documents is not a Pod that is supported wholly. The message names
/// the document, when there are several, and every field.
pub(crate) fn parse(text: &str) -> Result<Parsed> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).context("not readable as YAML")?;
    let documents: Vec<Value> = documents.into_iter().filter(|d| !d.is_null()).collect();
    if documents.is_empty() {
        bail!("there is no document in it");
    }
    let several = documents.len() > 1;
    let mut parsed = Parsed {
        pods: Vec::new(),
        notes: Vec::new(),
    };
    for (index, document) in documents.into_iter().enumerate() {
        let (pod, notes) = match several {
            true => one(document).with_context(|| format!("document {}", index + 1))?,
            false => one(document)?,
        };
        parsed.pods.push(pod);
        parsed.notes.extend(notes);
    }
    no_pod_twice(&parsed.pods)?;
    Ok(parsed)
}

fn one(mut document: Value) -> Result<(Pod, Vec<String>)> {
    is_a_pod(&document)?;
    drop_unset(&mut document);
    if let Value::Object(fields) = &mut document {
        // Looked at already.
        fields.retain(|name, _| name != "apiVersion" && name != "kind");
    }
    let mut ignored = Vec::new();
    let pod = typed(document, &mut ignored)?;
    let (mut unsupported, meaningless): (Vec<String>, Vec<String>) = ignored
        .into_iter()
        .partition(|path| meaning(path) == Meaning::Unsupported);
    for (field, container) in fields_of_containers(&pod.spec) {
        unsupported.extend(resources::unsupported(
            &container.resources,
            &format!("{field}.resources"),
        ));
    }
    if !unsupported.is_empty() {
        bail!("not supported: {}", unsupported.join(", "));
    }
    check(&pod)?;
    let mut notes: Vec<String> = meaningless
        .iter()
        .map(|path| format!("{path} means nothing without a cluster"))
        .collect();
    if pod.spec.restart_policy != RestartPolicy::Never {
        notes.push("spec.restartPolicy: nothing restarts containers without a kubelet".to_owned());
    }
    Ok((pod, notes))
}

fn is_a_pod(document: &Value) -> Result<()> {
    let text = |field: &str| {
        document
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => Ok(()),
        ("", _) | (_, "") => bail!("not a Kubernetes object: apiVersion and kind are missing"),
        (version, kind) => bail!(
            "{kind} ({version}) is not a Pod (v1), and only those can be run without a cluster"
        ),
    }
}

/// Drops what is null or an object without fields: tools write `status: {}` for what they leave out.
/// `emptyDir: {}` is not that.
fn drop_unset(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_unset);
            fields.retain(|name, value| {
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
                !value.is_null() && (!empty || name == "emptyDir")
            });
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unset),
        _ => {}
    }
}

fn typed(document: Value, ignored: &mut Vec<String>) -> Result<Pod> {
    let mut note = |path: serde_ignored::Path<'_>| ignored.push(plain(&path.to_string()));
    let document = serde_ignored::Deserializer::new(document, &mut note);
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = plain(&error.path().to_string());
        anyhow::anyhow!("{path}: {}", error.inner())
    })
}

/// A path with indices in brackets, as people write it.
fn plain(path: &str) -> String {
    let mut text = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        match part.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(part),
            Err(_) => text.push_str(&format!(".{part}")),
        }
    }
    text
}

/// What types cannot say.
fn check(pod: &Pod) -> Result<(), Invalid> {
    let metadata = &pod.metadata;
    is_name("metadata.name", &metadata.name, POD_NAME_MAX, Dots::Allowed)?;
    is_name(
        "metadata.namespace",
        &metadata.namespace,
        LABEL_MAX,
        Dots::Refused,
    )?;
    is_uid(&metadata.uid)?;
    if pod.spec.containers.is_empty() {
        return Err(Invalid::new("spec.containers", "a pod needs a container"));
    }
    if !pod.spec.hostname.is_empty() {
        is_name(
            "spec.hostname",
            &pod.spec.hostname,
            LABEL_MAX,
            Dots::Refused,
        )?;
    }
    volumes(&pod.spec.volumes)?;
    containers(&pod.spec)
}

/// The uid is a part of paths.
fn is_uid(uid: &str) -> Result<(), Invalid> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match uid.len() <= LABEL_MAX && uid.bytes().all(letter) {
        true => Ok(()),
        false => Err(Invalid::new(
            "metadata.uid",
            format!("{uid:?} is not made of letters, digits and hyphens"),
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dots {
    Allowed,
    Refused,
}

fn is_name(field: &str, name: &str, letters_max: usize, dots: Dots) -> Result<(), Invalid> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let edges = label
            .bytes()
            .next()
            .into_iter()
            .chain(label.bytes().next_back());
        !label.is_empty()
            && edges.into_iter().all(letter)
            && label.bytes().all(|b| letter(b) || b == b'-')
    };
    let labels = match dots {
        Dots::Allowed => name.split('.').all(label),
        Dots::Refused => label(name),
    };
    match labels && name.len() <= letters_max {
        true => Ok(()),
        false => Err(Invalid::new(
            field,
            format!(
                "{name:?} is not a name of at most {letters_max} lower-case letters, digits and hyphens"
            ),
        )),
    }
}

fn volumes(volumes: &[Volume]) -> Result<(), Invalid> {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let field = format!("spec.volumes[{index}]");
        is_name(
            &format!("{field}.name"),
            &volume.name,
            LABEL_MAX,
            Dots::Refused,
        )?;
        if !names.insert(&volume.name) {
            return Err(Invalid::new(
                field,
                format!("there is another volume {:?}", volume.name),
            ));
        }
        match (&volume.empty_dir, &volume.host_path) {
            (Some(_), None) => {}
            (None, Some(path)) if path.path.starts_with('/') && !climbs(&path.path) => {}
            (None, Some(path)) => {
                let reason = format!("{:?} is not an absolute path without \"..\"", path.path);
                return Err(Invalid::new(format!("{field}.hostPath.path"), reason));
            }
            _ => return Err(Invalid::new(field, "needs one of emptyDir and hostPath")),
        }
    }
    Ok(())
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|component| component == "..")
}

/// Each container with its path in the manifest.
fn fields_of_containers(spec: &Spec) -> impl Iterator<Item = (String, &Container)> {
    let numbered = |list: &'static str, containers: &[Container]| {
        (0..containers.len()).map(move |index| format!("spec.{list}[{index}]"))
    };
    let init = numbered("initContainers", &spec.init_containers);
    init.chain(numbered("containers", &spec.containers))
        .zip(spec.all_containers())
}

fn containers(spec: &Spec) -> Result<(), Invalid> {
    let mut names = BTreeSet::new();
    for (field, container) in fields_of_containers(spec) {
        is_name(
            &format!("{field}.name"),
            &container.name,
            LABEL_MAX,
            Dots::Refused,
        )?;
        if !names.insert(&container.name) {
            let reason = format!("there is another container {:?}", container.name);
            return Err(Invalid::new(field, reason));
        }
        resources::check(&container.resources, &format!("{field}.resources"))?;
        mounts(container, spec, &field)?;
    }
    Ok(())
}

fn mounts(container: &Container, spec: &Spec, field: &str) -> Result<(), Invalid> {
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let known = spec.volumes.iter().any(|volume| volume.name == mount.name);
        if !known {
            let reason = format!("there is no volume {:?}", mount.name);
            return Err(Invalid::new(
                format!("{field}.volumeMounts[{index}].name"),
                reason,
            ));
        }
    }
    Ok(())
}

fn no_pod_twice(pods: &[Pod]) -> Result<()> {
    let mut names = BTreeSet::new();
    for Pod { metadata, .. } in pods {
        if !names.insert((&metadata.namespace, &metadata.name)) {
            bail!(
                "pod {}/{} is in it twice",
                metadata.namespace,
                metadata.name
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: main, image: 'busybox:1'}
";

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    #[test]
    fn the_least_pod_has_the_usual_defaults() {
        let parsed = parse(LEAST).unwrap();
        let pod = &parsed.pods[0];
        assert_eq!(pod.metadata.namespace, "default");
        assert_eq!(pod.spec.termination_grace_period_seconds, 30);
        assert!(parsed.notes.is_empty());
    }

    #[test]
    fn the_sample_is_a_pod_without_notes() {
        let parsed = parse(include_str!("../../../../manifests/hello-pod.yaml")).unwrap();
        assert_eq!(parsed.pods.len(), 1);
        assert_eq!(parsed.notes, Vec::<String>::new());
    }

    #[test]
    fn several_documents_are_several_pods() {
        let two = format!("{LEAST}---{}---\n", LEAST.replace("web", "db"));
        let names: Vec<_> = parse(&two)
            .unwrap()
            .pods
            .into_iter()
            .map(|p| p.metadata.name)
            .collect();
        assert_eq!(names, ["web", "db"]);
        let same = format!("{LEAST}---{LEAST}");
        assert_eq!(refusal(&same), "pod default/web is in it twice");
        let broken = format!("{LEAST}---\nkind: Service\napiVersion: v1\n");
        assert!(refusal(&broken).starts_with("document 2: Service (v1) is not a Pod"));
    }

    #[test]
    fn every_unsupported_field_is_named_at_once() {
        let text = format!(
            "{LEAST}    livenessProbe: {{httpGet: {{port: 80}}}}\n    envFrom: [{{configMapRef: {{name: a}}}}]\n  hostAliases: [{{ip: 1.2.3.4}}]\n"
        )
        .replace("- {name: main, image: 'busybox:1'}", "- name: main\n    image: busybox:1\n    resources: {limits: {gpu: 1}}");
        assert_eq!(
            refusal(&text),
            "not supported: spec.containers[0].envFrom, spec.containers[0].livenessProbe, \
             spec.hostAliases, spec.containers[0].resources.limits.gpu"
        );
    }

    #[test]
    fn what_needs_a_cluster_is_noted_and_what_is_unset_is_not() {
        let text = format!(
            "{LEAST}  nodeName: a\n  serviceAccountName: b\n  affinity: {{}}\nstatus: {{}}\n"
        )
        .replace("{name: web}", "{name: web, creationTimestamp: null}");
        assert_eq!(
            parse(&text).unwrap().notes,
            [
                "spec.nodeName means nothing without a cluster",
                "spec.serviceAccountName means nothing without a cluster"
            ]
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_with_its_path() {
        let text = LEAST.replace("'busybox:1'", "a, ports: [{containerPort: many}]");
        let refusal = refusal(&text);
        assert!(
            refusal.starts_with("spec.containers[0].ports[0].containerPort: "),
            "{refusal}"
        );
    }

    #[test]
    fn names_that_cannot_be_are_refused_by_field() {
        for (from, to, field) in [
            ("web", "../x", "metadata.name"),
            ("web", "Web", "metadata.name"),
            (
                "name: web",
                "name: web, namespace: a.b",
                "metadata.namespace",
            ),
            ("name: web", "name: web, uid: ../..", "metadata.uid"),
            ("main", "-a", "spec.containers[0].name"),
            (
                "'busybox:1'",
                "a, volumeMounts: [{name: v, mountPath: /v}]",
                "spec.containers[0].volumeMounts[0].name",
            ),
            ("spec:", "spec:\n  volumes: [{name: v}]", "spec.volumes[0]"),
            (
                "spec:",
                "spec:\n  volumes: [{name: v, hostPath: {path: a}}]",
                "spec.volumes[0].hostPath.path",
            ),
        ] {
            let refusal = refusal(&LEAST.replace(from, to));
            assert!(refusal.starts_with(&format!("{field}: ")), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_manifest_is_told_so() {
        assert_eq!(refusal(""), "there is no document in it");
        assert!(refusal("a: [").starts_with("not readable as YAML"));
        assert!(refusal("a: 1").starts_with("not a Kubernetes object"));
    }
}
