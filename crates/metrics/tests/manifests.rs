//! The dashboard and the alerts in `manifests/` name metrics that exist.

use crisp_metrics::{Count, Metrics, Phase, Recovered, Rpc};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const DASHBOARD: &str = include_str!("../../../manifests/grafana-dashboard.json");
const RULES: &str = include_str!("../../../manifests/prometheus-rules.yaml");

/// The names of all samples of a daemon that has done everything once.
async fn served() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.rpc(Rpc {
        service: "RuntimeService",
        method: "Version",
        code: "OK",
        duration: Duration::ZERO,
    });
    let done = async { Ok::<_, ()>(()) };
    metrics.time(Phase::Shim, done).await.expect("it is done");
    metrics.pulls().ended("success", Duration::ZERO);
    metrics.exited("Completed");
    metrics.event("created");
    metrics.recovered(Recovered::TakenOver);
    let text = metrics.text(&Count {
        pods: vec![("ready", 1)],
        containers: vec![("running", 1)],
        ..Count::default()
    });
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    names.map(str::to_owned).collect()
}

/// The words of a text that are names of metrics of ours.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let ours = words.filter(|word| word.starts_with("crisp_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// The values of a key at any depth.
fn values<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(key).and_then(Value::as_str));
            object.values().for_each(|inner| values(inner, key, found));
        }
        Value::Array(array) => array.iter().for_each(|inner| values(inner, key, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_metric_of_the_dashboard_and_the_alerts_is_served() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let rules: Value = serde_saphyr::from_str(RULES).expect("YAML");
    let served = served().await;
    for (manifest, keys) in [(&dashboard, &["expr", "query"][..]), (&rules, &["expr"])] {
        let mut expressions = Vec::new();
        for key in keys {
            values(manifest, key, &mut expressions);
        }
        assert!(expressions.len() > 5, "{expressions:?}");
        for name in named(&expressions.join(" ")) {
            assert!(served.contains(&name), "{name} is not served: {served:?}");
        }
    }
    // The other way round: nothing is counted that neither shows.
    let shown = named(&format!("{DASHBOARD}{RULES}"));
    let of_ours = served.iter().filter(|name| name.starts_with("crisp_"));
    let suffixes = ["_sum", "_count", "_bucket"];
    for name in of_ours {
        let family = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.unwrap_or(name);
        assert!(
            shown.iter().any(|shown| shown.starts_with(family)),
            "{name} is shown nowhere"
        );
    }
}
