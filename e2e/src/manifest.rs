//! What is written into the manifests of pods.

use crate::catalog::BUSYBOX;
use serde_json::{Value, json};

/// A container that runs a script in busybox.
#[must_use]
pub fn sh(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// The same with more fields.
#[must_use]
pub fn sh_with(name: &str, script: &str, more: Value) -> Value {
    merged(sh(name, script), more)
}

/// Lives until it is told to end.
#[must_use]
pub fn pause(name: &str) -> Value {
    sh(name, "trap 'exit 0' TERM; while :; do sleep 0.2; done")
}

/// The same with more fields.
#[must_use]
pub fn pause_with(name: &str, more: Value) -> Value {
    merged(pause(name), more)
}

/// The fields of one object over those of another.
#[must_use]
pub fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}
