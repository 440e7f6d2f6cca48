//! One namespace's place in a network.

use crate::network::is_identifier;
use crate::{Error, Network};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The longest name that an interface can have (`IFNAMSIZ` less its zero byte).
const INTERFACE_NAME_MAX: usize = 15;

/// What is asked for a namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Tells the namespace from all others, together with the interface.
    pub container_id: String,
    /// The file that the namespace is bound to.
    pub netns: PathBuf,
    /// The name of the interface in the namespace.
    pub interface: String,
    /// Names and values of `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// What a plugin gets that declares the capability of a key, as `runtimeConfig`
    /// (<https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md>).
    pub capabilities: Map<String, Value>,
}

/// A namespace's place in a network. It has all that plugins were told, as the configuration was then,
/// and what they answered: whoever has it can take the namespace off again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub network: Arc<Network>,
    pub container_id: String,
    pub netns: PathBuf,
    pub interface: String,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) capabilities: Map<String, Value>,
    /// The last plugin's answer to ADD; none: it has not been given, or nobody has seen it.
    pub result: Option<Value>,
    /// What the interface got, in the plugin's order.
    pub addresses: Vec<IpNet>,
}

/// How long plugins whose daemon was killed may take to end by themselves. One that is killed can leave
/// what its own DEL stumbles over.
const PATIENCE: Duration = Duration::from_secs(3);

impl Attachment {
    /// Waits until no plugin that an earlier daemon ran works on it any more: they go on, and would make
    /// what has been taken away already. Only for one that no [`Client`](crate::Client) works on.
    pub async fn outwait_orphans(&self) {
        let told = format!("CNI_CONTAINERID={}", self.container_id);
        crisp_helper::outwait(&told, PATIENCE).await;
    }

    /// A place that is not made yet.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for what plugins would misunderstand.
    pub fn new(network: Arc<Network>, request: Request) -> Result<Self, Error> {
        let Request {
            container_id,
            netns,
            interface,
            args,
            capabilities,
        } = request;
        if !is_identifier(&container_id) {
            let reason = "only letters, digits, '_', '.' and '-' are allowed";
            return Err(invalid("container id", &container_id, reason));
        }
        if !is_interface_name(&interface) {
            let reason = "it cannot be the name of an interface";
            return Err(invalid("interface", &interface, reason));
        }
        let separates = |c: char| matches!(c, ';' | '=') || c.is_control();
        for (_, value) in &args {
            if value.contains(separates) {
                let reason = "';', '=' and control characters are not allowed";
                return Err(invalid("argument", value, reason));
            }
        }
        Ok(Self {
            network,
            container_id,
            netns,
            interface,
            args,
            capabilities,
            result: None,
            addresses: Vec::new(),
        })
    }

    /// `CNI_ARGS`.
    pub(crate) fn args_text(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(";")
    }

    /// Of what is asked for, what a plugin declares that it understands.
    pub(crate) fn runtime_config(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let declared = plugin.get("capabilities").and_then(Value::as_object);
        let declared = declared.into_iter().flatten();
        let on = declared.filter(|(_, on)| **on == Value::Bool(true));
        on.filter_map(|(name, _)| Some((name.clone(), self.capabilities.get(name)?.clone())))
            .collect()
    }
}

fn invalid(what: &'static str, value: &str, reason: &'static str) -> Error {
    Error::InvalidRequest {
        what,
        value: value.to_owned(),
        reason,
    }
}

/// As the kernel has it (`dev_valid_name`).
fn is_interface_name(name: &str) -> bool {
    let forbidden = |b: u8| b == b'/' || b == b':' || !b.is_ascii_graphic();
    (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{network, request};
    use serde_json::json;

    #[test]
    fn what_plugins_would_misunderstand_is_refused() {
        let network = Arc::new(network(json!([{"type": "a"}])));
        let with = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            Attachment::new(network.clone(), request)
        };
        assert_eq!(
            with(|_| ()).unwrap().args_text(),
            "IgnoreUnknown=1;K8S_POD_NAME=web"
        );
        for change in [
            (|r| r.container_id = "a/b".to_owned()) as fn(&mut Request),
            |r| r.container_id.clear(),
            |r| r.interface = "a/b".to_owned(),
            |r| r.interface = "sixteen-letters-".to_owned(),
            |r| r.args[1].1 = "web;K8S_POD_NAMESPACE=kube-system".to_owned(),
            |r| r.args[1].1 = "a\nb".to_owned(),
        ] {
            assert!(matches!(with(change), Err(Error::InvalidRequest { .. })));
        }
    }

    #[test]
    fn plugins_get_what_they_declare_and_no_more() {
        let mut request = request();
        request.capabilities = json!({"dns": {"servers": ["1.1.1.1"]}, "portMappings": []})
            .as_object()
            .unwrap()
            .clone();
        let network = Arc::new(network(json!([{"type": "a"}])));
        let attachment = Attachment::new(network, request).unwrap();
        let given = |capabilities: Value| {
            let plugin = json!({ "type": "a", "capabilities": capabilities });
            Value::Object(attachment.runtime_config(plugin.as_object().unwrap()))
        };
        assert_eq!(
            given(json!({"dns": true, "mac": true})),
            json!({"dns": {"servers": ["1.1.1.1"]}})
        );
        assert_eq!(given(json!({"dns": false})), json!({}));
        assert_eq!(given(json!(null)), json!({}));
    }
}
