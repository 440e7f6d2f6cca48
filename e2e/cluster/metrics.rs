//! The server of figures that `kubectl top` asks.

use crate::images::METRICS_SERVER;
use serde_json::{Value, json};

const NAME: &str = "metrics-server";
/// The part of the API that it answers for.
pub(crate) const API: &str = "v1beta1.metrics.k8s.io";

/// It in a namespace, as its project installs it, but that it takes the kubelets' certificates, which
/// nobody has signed, and looks more often.
pub(crate) fn manifests(namespace: &str) -> Value {
    let metadata = json!({"name": NAME, "namespace": namespace});
    let labels = json!({"app": NAME});
    let container = json!({
        "name": NAME,
        "image": METRICS_SERVER,
        "args": ["--cert-dir=/tmp", "--secure-port=10250", "--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP", "--metric-resolution=15s"],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 10250, "scheme": "HTTPS"}, "periodSeconds": 2},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    let pods = json!({
        "serviceAccountName": NAME,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    });
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
    ]);
    json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:metrics-server"},
            "rules": rules,
        },
        binding(namespace, "ClusterRoleBinding", json!({"name": "metrics-server"}), "ClusterRole", "system:metrics-server"),
        binding(namespace, "ClusterRoleBinding", json!({"name": "metrics-server-delegator"}), "ClusterRole", "system:auth-delegator"),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": pods,
            }},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": 10250}]},
        },
    ])
}

/// Lets it read, in the namespace of the system, by what the API server is known to it.
pub(crate) fn reader(namespace: &str) -> Value {
    let metadata = json!({"name": "metrics-server-reader"});
    let role = "extension-apiserver-authentication-reader";
    binding(namespace, "RoleBinding", metadata, "Role", role)
}

/// Has the API server ask it.
pub(crate) fn api_service(namespace: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API},
        "spec": {
            "service": {"name": NAME, "namespace": namespace},
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    })
}

/// Gives its account a role.
fn binding(namespace: &str, kind: &str, metadata: Value, role_kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
    })
}
