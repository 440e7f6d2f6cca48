use super::*;
use crate::testing::{Plugins, attachment, network, network_of, request};
use std::sync::Arc;
use std::time::Instant;

/// Answers ADD with an address, and everything else with nothing.
const ADDRESS: &str = r#"
if [ $CNI_COMMAND = ADD ]; then
    echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [{"interface": 0, "address": "10.1.0.5/16"}, {"interface": 0, "address": "fd00::5/64"}]}'
fi"#;
fn two() -> Value {
    json!([
        {"type": "first", "mtu": 1400},
        {"type": "second", "capabilities": {"portMappings": true, "dns": false}},
    ])
}

fn plugins() -> Plugins {
    let plugins = Plugins::new();
    plugins.add("first", ADDRESS);
    plugins.add("second", ADDRESS);
    plugins
}

#[tokio::test]
async fn plugins_are_run_in_order_and_told_what_the_one_before_answered() {
    let plugins = plugins();
    plugins.add(
        "first",
        &format!("env | grep ^CNI_ | sort >environment\n{ADDRESS}"),
    );
    let mut request = request();
    request.capabilities = Map::from_iter([
        ("portMappings".to_owned(), json!([{"hostPort": 80}])),
        ("dns".to_owned(), json!({})),
    ]);
    let attachment = Attachment::new(Arc::new(network(two())), request).unwrap();
    let made = plugins.client().add(&attachment).await.unwrap();
    let addresses: Vec<String> = made.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.1.0.5/16", "fd00::5/64"]);
    assert_eq!(plugins.calls(), ["ADD first", "ADD second"]);
    assert_eq!(
        plugins.told("first", "ADD"),
        json!({"cniVersion": "1.1.0", "name": "net", "type": "first", "mtu": 1400})
    );
    let second = plugins.told("second", "ADD");
    assert_eq!(
        second["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 80}]})
    );
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
    let path = format!("/no/such/dir:{}", plugins.dir().display());
    assert_eq!(
        plugins.read("environment"),
        format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web\nCNI_COMMAND=ADD\nCNI_CONTAINERID=pod1\n\
             CNI_IFNAME=eth0\nCNI_NETNS=/proc/self/ns/net\nCNI_PATH={path}\n"
        )
    );
}

#[tokio::test]
async fn check_and_delete_are_told_the_result_and_delete_goes_backwards() {
    let plugins = plugins();
    let client = plugins.client();
    let made = client.add(&attachment(network(two()))).await.unwrap();
    client.check(&made).await.unwrap();
    client.delete(&made).await.unwrap();
    assert_eq!(
        plugins.calls()[2..],
        ["CHECK first", "CHECK second", "DEL second", "DEL first"]
    );
    for (plugin, verb) in [("first", "CHECK"), ("second", "DEL"), ("first", "DEL")] {
        let told = plugins.told(plugin, verb);
        assert_eq!(
            told["prevResult"]["ips"][1]["address"], "fd00::5/64",
            "{verb} {plugin}"
        );
    }
}

#[tokio::test]
async fn an_attachment_outlives_its_process_and_its_configuration() {
    let plugins = plugins();
    let client = plugins.client();
    let made = client.add(&attachment(network(two()))).await.unwrap();
    let kept = serde_json::to_string(&made).unwrap();
    let again: Attachment = serde_json::from_str(&kept).unwrap();
    assert_eq!(again, made);
    client.delete(&again).await.unwrap();
    assert_eq!(plugins.told("first", "DEL")["mtu"], 1400);
}

#[tokio::test]
async fn older_versions_are_not_asked_for_what_they_do_not_have() {
    let plugins = plugins();
    let client = plugins.client();
    let network = network_of(two(), "0.3.1");
    let made = client.add(&attachment(network.clone())).await.unwrap();
    client.check(&made).await.unwrap();
    client.status(&network).await.unwrap();
    client.collect_garbage(&network, &[&made]).await.unwrap();
    client.delete(&made).await.unwrap();
    assert_eq!(plugins.calls()[2..], ["DEL second", "DEL first"]);
    assert!(plugins.told("first", "DEL").get("prevResult").is_none());
}

#[tokio::test]
async fn a_network_can_do_without_check_and_garbage_collection() {
    let plugins = plugins();
    let client = plugins.client();
    let mut network = network(two());
    (network.disable_check, network.disable_gc) = (true, true);
    let made = client.add(&attachment(network.clone())).await.unwrap();
    client.check(&made).await.unwrap();
    client.collect_garbage(&network, &[&made]).await.unwrap();
    assert_eq!(plugins.calls().len(), 2);
}

#[tokio::test]
async fn garbage_is_what_no_valid_attachment_has() {
    let plugins = plugins();
    let client = plugins.client();
    let network = network(two());
    let valid = attachment(network.clone());
    plugins.add("first", "echo '{\"code\": 7, \"msg\": \"no\"}'; exit 1");
    let error = client
        .collect_garbage(&network, &[&valid])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("\"first\" refused GC"),
        "{error}"
    );
    assert_eq!(plugins.calls(), ["GC first", "GC second"]);
    let told = plugins.told("second", "GC");
    let list = json!([{"containerID": "pod1", "ifname": "eth0"}]);
    assert_eq!(told["cni.dev/valid-attachments"], list);
    assert_eq!(told["cni.dev/attachments"], list);
}

#[tokio::test]
async fn status_tells_why_nothing_can_be_added() {
    let plugins = plugins();
    let client = plugins.client();
    let network = network(two());
    client.status(&network).await.unwrap();
    let refusal = r#"echo '{"cniVersion": "1.1.0", "code": 50, "msg": "no agent", "details": "yet"}'; exit 1"#;
    plugins.add("second", refusal);
    let error = client.status(&network).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { refusal, .. } if refusal.is_temporary()));
    assert!(
        error.to_string().contains("no agent; yet (code 50)"),
        "{error}"
    );
    std::fs::remove_file(plugins.path("second")).unwrap();
    let error = client.status(&network).await.unwrap_err();
    assert!(matches!(error, Error::NoPlugin { .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_begun_when_a_plugin_is_missing() {
    let plugins = plugins();
    std::fs::remove_file(plugins.path("second")).unwrap();
    let error = plugins
        .client()
        .add(&attachment(network(two())))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoPlugin { .. }), "{error}");
    assert!(plugins.calls().is_empty());
}

#[tokio::test]
async fn a_delete_that_fails_is_told_and_can_be_repeated() {
    let plugins = plugins();
    let client = plugins.client();
    let made = client.add(&attachment(network(two()))).await.unwrap();
    plugins.add(
        "second",
        "[ -e repaired ] || { echo 'no lock' >&2; exit 3; }",
    );
    let error = client.delete(&made).await.unwrap_err();
    assert!(error.to_string().contains("no lock"), "{error}");
    // What was added before is still used by what could not be taken away.
    assert!(!plugins.calls().contains(&"DEL first".to_owned()));
    std::fs::write(plugins.path("repaired"), "").unwrap();
    client.delete(&made).await.unwrap();
    client.delete(&made).await.unwrap();
}

#[tokio::test]
async fn a_namespace_that_is_gone_is_deleted_without_its_path() {
    let plugins = Plugins::new();
    plugins.add("first", "echo \"netns=$CNI_NETNS.\" >netns");
    let mut gone = attachment(network(json!([{"type": "first"}])));
    let client = plugins.client();
    for (path, told) in [
        ("/no/such/file", "netns=.\n"),
        // A restart of the host leaves the file without a namespace.
        ("/etc/passwd", "netns=.\n"),
        ("/proc/self/ns/net", "netns=/proc/self/ns/net.\n"),
    ] {
        gone.netns = path.into();
        client.delete(&gone).await.unwrap();
        assert_eq!(plugins.read("netns"), told);
    }
}

#[tokio::test]
async fn answers_that_are_none_are_errors_and_bounded() {
    let plugins = Plugins::new();
    let client = plugins.client();
    let attachment = attachment(network(json!([{"type": "first"}])));
    for (script, what) in [
        ("", "no JSON"),
        ("echo hello", "no JSON"),
        ("echo '{}'", "no address"),
        ("yes", "more than"),
        ("head -c 10000000 /dev/zero >&2", "more than"),
        (
            "yes complaint | head -c 10000 >&2; exit 9",
            "complaint complaint",
        ),
        ("kill -9 $$", "signal: 9"),
        (
            "printf %s '{\"code\": 11, \"msg\": \"busy\\nvery\"}'; exit 1",
            "busy very (code 11)",
        ),
    ] {
        plugins.add("first", script);
        let error = text(&client.add(&attachment).await.unwrap_err());
        assert!(
            error.contains(what) && error.len() < 4000,
            "{script}: {error}"
        );
    }
}

#[tokio::test]
async fn what_a_plugin_leaves_running_ends_with_it() {
    let plugins = Plugins::new();
    plugins.add("first", &format!("sleep 1000 & echo $! >pid\n{ADDRESS}"));
    let begun = Instant::now();
    let attachment = attachment(network(json!([{"type": "first"}])));
    plugins.client().add(&attachment).await.unwrap();
    // The pipe that the sleeper has open was not waited for.
    assert!(begun.elapsed() < Duration::from_secs(500));
    assert!(ended(&plugins).await);
}

#[tokio::test]
async fn a_plugin_is_killed_with_all_it_started_when_nobody_waits_for_it() {
    let plugins = Plugins::new();
    plugins.add("first", "trap '' TERM; sleep 1000 & echo $! >pid; wait");
    let client = plugins.client();
    let attachment = attachment(network(json!([{"type": "first"}])));
    let hangs = async {
        while plugins.read("pid").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = client.delete(&attachment) => done.unwrap(),
        () = hangs => {}
    }
    assert!(ended(&plugins).await);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_takes_too_long_is_told_by_its_name() {
    let client = Plugins::new().client();
    let network = network(two());
    let never = client.bounded(
        &network,
        Verb::Delete,
        std::future::pending::<Result<(), Error>>(),
    );
    let error = never.await.unwrap_err();
    assert!(matches!(
        error,
        Error::TimedOut {
            after: DELETE_TIMEOUT,
            ..
        }
    ));
    assert!(error.to_string().contains("\"net\""), "{error}");
}

/// Whether the process that a plugin has named ends.
async fn ended(plugins: &Plugins) -> bool {
    let stat = format!("/proc/{}/stat", plugins.read("pid").trim());
    for _ in 0..2000 {
        let state = std::fs::read_to_string(&stat).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// An error with its cause.
fn text(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}
