//! `crisp info`: what the daemon says of itself, as kubelets and tools hear it.

use crate::client::{Client, Target, told};
use crate::output;
use crate::text::Table;
use anyhow::Result;
use crisp_cri_api::v1;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON, in the shape of `crictl info`.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    let text = Client::with(target, async |client| {
        let version = client.version().await?;
        let request = v1::StatusRequest { verbose: true };
        let status = client.runtime().status(request).await.map_err(told)?;
        let status = status.into_inner();
        match arguments.json {
            true => Ok(serde_json::to_string_pretty(&object(&status))? + "\n"),
            false => Ok(table(&version, &status).render(0)),
        }
    })?;
    output::result(text)?;
    Ok(ExitCode::SUCCESS)
}

/// The whole status, with what it tells beside it under the same keys.
fn object(status: &v1::StatusResponse) -> Value {
    let condition = |condition: &v1::RuntimeCondition| {
        json!({
            "type": condition.r#type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
        })
    };
    let handler = |handler: &v1::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        let features = given([
            (
                "recursive_read_only_mounts",
                features.recursive_read_only_mounts,
            ),
            ("user_namespaces", features.user_namespaces),
        ]);
        match handler.name.as_str() {
            "" => json!({ "features": features }),
            name => json!({ "name": name, "features": features }),
        }
    };
    let features = status.features.unwrap_or_default();
    let mut object: Map<String, Value> = status
        .info
        .iter()
        .map(|(key, text)| (key.clone(), parsed(text)))
        .collect();
    let conditions: Vec<Value> = conditions(status).iter().map(condition).collect();
    object.insert("status".to_owned(), json!({ "conditions": conditions }));
    let handlers: Vec<Value> = status.runtime_handlers.iter().map(handler).collect();
    object.insert("runtimeHandlers".to_owned(), json!(handlers));
    let features = given([
        (
            "supplemental_groups_policy",
            features.supplemental_groups_policy,
        ),
        (
            "user_namespaces_host_network",
            features.user_namespaces_host_network,
        ),
    ]);
    object.insert("features".to_owned(), features);
    Value::Object(object)
}

/// Those features that there are: what is false is left out.
fn given<const N: usize>(features: [(&str, bool); N]) -> Value {
    let given = features.into_iter().filter(|(_, has)| *has);
    let given = given.map(|(name, has)| (name.to_owned(), json!(has)));
    Value::Object(given.collect())
}

/// A value of the verbose part is JSON, or a plain text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn conditions(status: &v1::StatusResponse) -> &[v1::RuntimeCondition] {
    status
        .status
        .as_ref()
        .map_or(&[], |status| &status.conditions)
}

fn table(version: &v1::VersionResponse, status: &v1::StatusResponse) -> Table {
    let mut table = Table::default();
    let mut row = |name: &str, text: String| table.row([name.to_owned(), text]);
    row(
        "runtime",
        format!(
            "{} {}, CRI {}",
            version.runtime_name, version.runtime_version, version.runtime_api_version
        ),
    );
    for condition in conditions(status) {
        row(&condition.r#type, verdict(condition));
    }
    for handler in &status.runtime_handlers {
        row("handler", described(handler));
    }
    let config = status.info.get("config").map(|text| parsed(text));
    for (name, key) in [
        ("cgroup driver", "cgroupDriver"),
        ("sandbox image", "sandboxImage"),
        ("records and images", "rootDir"),
        ("running pods", "runDir"),
    ] {
        let value = config.as_ref().and_then(|config| config[key].as_str());
        row(name, value.unwrap_or("-").to_owned());
    }
    if let Some(network) = status.info.get("lastCNILoadStatus") {
        row("CNI", network.clone());
    }
    table
}

fn verdict(condition: &v1::RuntimeCondition) -> String {
    match condition.status {
        true => "yes".to_owned(),
        false => format!("no, {}: {}", condition.reason, condition.message),
    }
}

/// A handler's name and what it can.
fn described(handler: &v1::RuntimeHandler) -> String {
    let features = handler.features.unwrap_or_default();
    let abilities = [
        (
            features.recursive_read_only_mounts,
            "recursive read-only mounts",
        ),
        (features.user_namespaces, "user namespaces"),
    ];
    let abilities: Vec<&str> = abilities
        .into_iter()
        .filter_map(|(has, ability)| has.then_some(ability))
        .collect();
    let name = match handler.name.as_str() {
        "" => "(default)",
        name => name,
    };
    match abilities.as_slice() {
        [] => name.to_owned(),
        abilities => format!("{name}: {}", abilities.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> v1::StatusResponse {
        let condition = |kind: &str, status, reason: &str, message: &str| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let features = v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: true,
        };
        v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", true, "", ""),
                    condition("NetworkReady", false, "NetworkPluginNotReady", "no network"),
                ],
            }),
            runtime_handlers: vec![v1::RuntimeHandler {
                name: String::new(),
                features: Some(features),
            }],
            info: [
                ("config", r#"{"cgroupDriver":"systemd","rootDir":"/r"}"#),
                ("lastCNILoadStatus", "OK"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn tools_find_their_keys() {
        let object = object(&status());
        assert_eq!(object["status"]["conditions"][0]["type"], "RuntimeReady");
        assert_eq!(object["config"]["cgroupDriver"], "systemd");
        assert_eq!(object["lastCNILoadStatus"], "OK");
        assert_eq!(
            object["runtimeHandlers"][0],
            json!({"features": {"recursive_read_only_mounts": true, "user_namespaces": true}})
        );
        assert_eq!(object["features"], json!({}));
    }

    #[test]
    fn a_person_reads_what_is_ready_and_why_not() {
        let text = table(&v1::VersionResponse::default(), &status()).render(0);
        for line in [
            "RuntimeReady         yes",
            "NetworkReady         no, NetworkPluginNotReady: no network",
            "handler              (default): recursive read-only mounts, user namespaces",
            "cgroup driver        systemd",
            "sandbox image        -",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
