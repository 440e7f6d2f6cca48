//! What pods are given by way of the API: configuration, secrets and tokens.

use super::pod;
use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use crisp_e2e::manifest::pause_with;
use serde_json::{Value, json};

/// A ConfigMap and a Secret with one word in each.
fn objects(word: &str) -> Value {
    json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"word": word}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"word": format!("secret {word}")}},
    ])
}

pub(super) async fn files_and_variables_come_from_the_api_and_change(
    cluster: &Cluster,
) -> Result<()> {
    let kubectl = cluster.namespace("configuration").await?;
    kubectl.apply(&objects("first")).await?;
    let main = pause_with(
        "main",
        json!({
            "env": [{"name": "WORD", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "word"}}}],
            "volumeMounts": [
                {"name": "settings", "mountPath": "/settings"},
                {"name": "settings", "mountPath": "/etc/word", "subPath": "word"},
                {"name": "keys", "mountPath": "/keys", "readOnly": true},
            ],
        }),
    );
    let volumes = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
    ]);
    kubectl
        .apply(&pod(
            "reader",
            json!({"containers": [main], "volumes": volumes}),
        ))
        .await?;
    kubectl.ready("reader").await?;
    let reads = "echo $WORD, $(cat /settings/word), $(cat /etc/word), $(cat /keys/word), $(stat -L -c %a /keys/word)";
    let said = kubectl.exec("reader", reads).await?;
    ensure!(said == "first, first, first, secret first, 400\n", "{said}");
    kubectl.apply(&objects("second")).await?;
    // A file that is mounted by its name stays what it was, as the variable does.
    let expected = "first, second, first, secret second, 400\n";
    cluster
        .until("the files change", async || {
            let said = kubectl.exec("reader", reads).await.ok()?;
            (said == expected).then_some(())
        })
        .await?;
    kubectl.delete_namespace().await
}

pub(super) async fn projected_files_are_the_pods_and_its_accounts(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("token").await?;
    let volume = json!({"name": "identity", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "audience": "e2e", "expirationSeconds": 600}},
        {"configMap": {"name": "kube-root-ca.crt"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]}});
    let mounts = json!({"volumeMounts": [
        {"name": "identity", "mountPath": "/identity"},
        {"name": "identity", "mountPath": "/etc/own-name", "subPath": "name", "readOnly": true},
    ]});
    let spec = json!({"containers": [pause_with("main", mounts)], "volumes": [volume]});
    kubectl.apply(&pod("bearer", spec)).await?;
    kubectl.ready("bearer").await?;
    let said = kubectl
        .exec(
            "bearer",
            "cat /identity/name /etc/own-name; grep -c BEGIN /identity/ca.crt",
        )
        .await?;
    ensure!(said == "bearerbearer2\n", "{said}");
    let token = kubectl.exec("bearer", "cat /identity/token").await?;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["e2e"]},
    });
    let create = ["create", "-f", "-", "-o", "json"];
    let review: Value =
        serde_json::from_str(&kubectl.run_with(&create, &review.to_string()).await?)?;
    let status = &review["status"];
    ensure!(
        status["authenticated"] == true
            && status["user"]["username"] == "system:serviceaccount:token:default"
            && status["user"]["extra"]["authentication.kubernetes.io/pod-name"]
                == json!(["bearer"]),
        "{status}"
    );
    kubectl.delete_namespace().await
}
