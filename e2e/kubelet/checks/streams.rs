//! exec, attach, port-forward and logs by way of the kubelet, over both transports.

use crate::kubelet::Kubelet;
use crate::pod::container;
use anyhow::{Result, ensure};
use crisp_e2e::catalog::NGINX_PAGE;
use crisp_e2e::manifest::{pause, sh_with};
use serde_json::json;

/// How the client speaks: SPDY without a word.
const TRANSPORTS: [&[&str]; 2] = [&[], &["-websocket"]];

pub(super) async fn exec_keeps_bytes_and_codes(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add("exec", json!({"containers": [pause("main")]}))?;
    pod.ready().await?;
    let input = "0123456789abcde\n".repeat(1 << 16);
    for transport in TRANSPORTS {
        let script = ["sh", "-c", "cat; echo to stderr >&2; exit 7"];
        let arguments = [transport, &["exec", pod.name(), "main"], &script].concat();
        let output = kubelet.client(&arguments, &input).await?;
        ensure!(
            output.stdout == input,
            "{} bytes came back",
            output.stdout.len()
        );
        ensure!(
            output.stderr == "to stderr\n" && output.code == Some(7),
            "{}",
            output.stderr
        );
    }
    pod.remove().await
}

pub(super) async fn attach_reads_and_writes(kubelet: &Kubelet) -> Result<()> {
    let echo = "while read -r line; do echo \"got $line\"; [ \"$line\" = end ] && exit 0; done";
    for transport in TRANSPORTS {
        let name = if transport.is_empty() {
            "attach"
        } else {
            "attach-ws"
        };
        let main = sh_with("main", echo, json!({"stdin": true}));
        let pod = kubelet.add(
            name,
            json!({"restartPolicy": "Never", "containers": [main]}),
        )?;
        pod.ready().await?;
        let arguments = [transport, &["attach", pod.name(), "main"]].concat();
        let output = kubelet.client(&arguments, "one\nend\n").await?;
        ensure!(output.stdout == "got one\ngot end\n", "{output:?}");
        let object = pod.ended().await?;
        ensure!(
            object["status"]["phase"] == "Succeeded",
            "{}",
            object["status"]
        );
        ensure!(pod.logs("main").await? == output.stdout);
        pod.remove().await?;
    }
    Ok(())
}

pub(super) async fn port_forward_reaches_a_pod_and_a_host_network_pod(
    kubelet: &Kubelet,
) -> Result<()> {
    let server = super::network::web(json!([]));
    let pod = kubelet.add("forward", json!({"containers": [server]}))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let port = port.to_string();
    let serve =
        format!("echo from the host >/tmp/index.html; httpd -f -p 127.0.0.1:{port} -h /tmp");
    let asks = format!("wget -q -O - http://127.0.0.1:{port}/");
    let probe = json!({"exec": {"command": ["sh", "-c", asks]}, "periodSeconds": 1});
    let main = sh_with("main", &serve, json!({"readinessProbe": probe}));
    let host = kubelet.add(
        "forward-host",
        json!({"hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [main]}),
    )?;
    pod.ready().await?;
    host.ready().await?;
    for transport in TRANSPORTS {
        for (pod, port, page) in [(&pod, "80", NGINX_PAGE), (&host, &port, "from the host\n")] {
            let arguments = [transport, &["forward", pod.name(), port]].concat();
            let output = kubelet.client(&arguments, "GET / HTTP/1.0\r\n\r\n").await?;
            ensure!(output.stdout.ends_with(page), "{output:?}");
        }
    }
    for pod in [pod, host] {
        pod.remove().await?;
    }
    Ok(())
}

pub(super) async fn logs_are_served_by_lines_and_since_a_restart(kubelet: &Kubelet) -> Result<()> {
    let main = sh_with(
        "main",
        "[ -e /work/tried ] && { echo second; sleep 1000; }; touch /work/tried; seq 1 1000; exit 1",
        json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]}),
    );
    let pod = kubelet.add(
        "logs",
        json!({
            "volumes": [{"name": "work", "emptyDir": {}}],
            "containers": [main],
            "terminationGracePeriodSeconds": 0,
        }),
    )?;
    pod.until("the container runs again", |object| {
        let status = container(object, "main").ok()?;
        (status["restartCount"] == 1 && status["state"]["running"].is_object()).then_some(())
    })
    .await?;
    ensure!(pod.logs("main").await? == "second\n");
    let ask = async |query: &str| {
        let path = format!("/containerLogs/default/{}/main?{query}", pod.name());
        anyhow::Ok(kubelet.client(&["get", &path], "").await?.stdout)
    };
    ensure!(ask("previous=true&tailLines=2").await? == "999\n1000\n");
    ensure!(ask("previous=true").await?.lines().count() == 1000);
    let stamped = ask("timestamps=true").await?;
    ensure!(is_stamped(&stamped, "second\n"), "{stamped}");
    pod.remove().await
}

/// Whether a line begins with a time, as RFC 3339 writes it.
fn is_stamped(line: &str, text: &str) -> bool {
    line.split_once(' ').is_some_and(|(stamp, rest)| {
        let digits = stamp
            .get(..4)
            .is_some_and(|year| year.parse::<u16>().is_ok());
        digits && stamp.contains('T') && rest == text
    })
}
