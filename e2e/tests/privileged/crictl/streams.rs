//! exec, attach and port-forward by crictl, over both transports.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{NamespaceMode, NamespaceOption};
use crisp_e2e::{Container, Node, sh};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;

const TRANSPORTS: [&str; 2] = ["--transport=spdy", "--transport=websocket"];

/// Gives a crictl its input, and waits for its end.
async fn feed(mut crictl: Child, input: &[u8]) -> Result<std::process::Output> {
    let mut stdin = crictl.stdin.take().context("its input is a pipe")?;
    stdin.write_all(input).await?;
    drop(stdin);
    Ok(tokio::time::timeout(Duration::from_secs(60), crictl.wait_with_output()).await??)
}

async fn running(node: &Node) -> Result<Container<'_>> {
    let pod = node.run_pod("streams", |_| ()).await?;
    Ok(pod.start("main", |_| ()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_exec_passes_streams_and_exit_codes() -> Result<()> {
    let node = Node::start().await?;
    let container = running(&node).await?;
    let id = container.id.as_str();
    let script = "cat; echo complaint >&2; exit 3";
    for transport in TRANSPORTS {
        // Over a WebSocket crictl has no way to end its input.
        let (script, input) = match transport.ends_with("spdy") {
            true => (script, &b"input\n"[..]),
            false => (
                "read x; echo $x; echo complaint >&2; exit 3",
                &b"input\n"[..],
            ),
        };
        let crictl = node.start_crictl(&["exec", "-i", transport, id, "sh", "-c", script])?;
        let done = feed(crictl, input).await?;
        ensure!(done.stdout == b"input\n", "{transport}: {done:?}");
        let complaint = String::from_utf8_lossy(&done.stderr);
        ensure!(complaint.contains("complaint"), "{transport}: {done:?}");
        ensure!(complaint.contains("exit code 3"), "{transport}: {done:?}");
        ensure!(!done.status.success(), "{transport}: {done:?}");
        let done = node.crictl(&["exec", transport, id, "echo", "out"]).await?;
        ensure!(done.stdout == "out\n", "{transport}: {done:?}");
        let refused = node
            .try_crictl(&["exec", transport, id, "/no/such/binary"])
            .await?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("/no/such/binary"),
            "{transport}: {refused:?}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_exec_sync_tells_code_timeout_and_several_containers() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("streams", |_| ()).await?;
    let one = pod.start("one", |_| ()).await?;
    pod.start("two", |_| ()).await?;
    let failed = node
        .try_crictl(&["exec", "-s", &one.id, "sh", "-c", "echo out; exit 5"])
        .await?;
    ensure!(
        failed.code != Some(0) && failed.stderr.contains("exited with 5"),
        "{failed:?}"
    );
    let done = node.crictl(&["exec", "-s", &one.id, "echo", "out"]).await?;
    ensure!(done.stdout.trim_end() == "out", "{done:?}");
    let late = node
        .try_crictl(&["exec", "-s", "--timeout=1", &one.id, "sleep", "7650301"])
        .await?;
    ensure!(
        late.code != Some(0) && late.stderr.contains("DeadlineExceeded"),
        "{late:?}"
    );
    let both = node
        .crictl(&["exec", "-s", "--parallel", "--pod", &pod.id, "hostname"])
        .await?
        .stdout;
    ensure!(both.matches("streams").count() == 2, "{both}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_exec_on_a_terminal_is_one_with_its_size_and_keys() -> Result<()> {
    let node = Node::start().await?;
    let container = running(&node).await?;
    for transport in TRANSPORTS {
        let arguments = ["exec", "-it", transport, &container.id, "sh"];
        let mut terminal = node.crictl_on_terminal(&arguments)?;
        terminal.resize(101, 33)?;
        terminal.enter("tty && echo is-a-$((1+1))-terminal\r")?;
        terminal.wait_for("is-a-2-terminal").await?;
        // Told at the start or behind it: it comes to the size that the window has.
        terminal.enter(
            "until [ \"$(stty size)\" = '33 101' ]; do sleep 0.05; done; echo size-$((2+1))\r",
        )?;
        terminal.wait_for("size-3").await?;
        terminal.resize(77, 22)?;
        terminal.enter(
            "until [ \"$(stty size)\" = '22 77' ]; do sleep 0.05; done; echo size-$((3+1))\r",
        )?;
        terminal.wait_for("size-4").await?;
        // Ctrl-C ends what runs on the terminal, not the shell. What runs there says itself that it does: the shell
        // would say so before.
        terminal.enter("sh -c 'echo begin-$((4+1)); exec sleep 7650302'\r")?;
        terminal.wait_for("begin-5").await?;
        terminal.enter("\x03")?;
        terminal.enter("echo after-$((5+1))\r")?;
        // Ctrl-D ends the shell, once it reads what is typed instead of the kernel.
        terminal.wait_for("after-6\r\n/ # ").await?;
        terminal.enter("\x04")?;
        terminal.wait().await?;
    }
    ensure!(!container.sh("ps -o args").await?.contains("sleep 7650302"));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_attach_can_be_left_and_taken_up_again() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("streams", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.stdin = true;
            config.command = sh("while read line; do echo heard $line; done");
        })
        .await?;
    for transport in TRANSPORTS {
        for round in ["first", "second"] {
            let mut crictl = node.start_crictl(&["attach", "-i", transport, &container.id])?;
            let word = format!("{round}-{}", transport.len());
            let mut stdin = crictl.stdin.take().context("its input is a pipe")?;
            stdin.write_all(format!("{word}\n").as_bytes()).await?;
            let expected = format!("heard {word}\n");
            let mut heard = vec![0; expected.len()];
            let stdout = crictl.stdout.as_mut().context("its output is a pipe")?;
            tokio::time::timeout(Duration::from_secs(60), stdout.read_exact(&mut heard)).await??;
            ensure!(heard == expected.as_bytes(), "{heard:?}");
            // Left without a word.
            crictl.kill().await?;
        }
    }
    ensure!(container.status().await?.finished_at == 0, "it has ended");
    container.wait_log("heard second").await?;
    node.finish().await
}

/// What a port answers.
async fn ask(address: std::net::SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(60), exchange).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_forwards_ports_of_pods_over_both_families() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("forward", |_| ()).await?;
    pod.start("four", |config| config.command = sh("nc -ll -p 7 -e cat"))
        .await?;
    let six = "mkdir /www; echo six > /www/index.html; exec httpd -f -h /www -p [::1]:8080";
    pod.start("six", |config| config.command = sh(six)).await?;
    let host_port = node.host_port();
    let host = node
        .run_pod("host", |config| {
            let security = config.linux.get_or_insert_default();
            let security = security.security_context.get_or_insert_default();
            security.namespace_options = Some(NamespaceOption {
                network: NamespaceMode::Node.into(),
                pid: NamespaceMode::Container.into(),
                ..NamespaceOption::default()
            });
        })
        .await?;
    let echo = format!("nc -ll -p {host_port} -e cat");
    host.start("main", |config| config.command = sh(&echo))
        .await?;
    for transport in TRANSPORTS {
        let forward = node.crictl_forward(&[transport, &pod.id, ":7"]).await?;
        for word in [b"one", b"two"] {
            let answer = crisp_e2e::until("the pod's port answers", async || {
                ask(forward.address, word)
                    .await
                    .ok()
                    .filter(|answer| !answer.is_empty())
            })
            .await?;
            ensure!(answer == word, "{transport}: {answer:?}");
        }
        let forward = node.crictl_forward(&[transport, &pod.id, ":8080"]).await?;
        let page = crisp_e2e::until("the pod's IPv6 port answers", async || {
            let answer = ask(forward.address, b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
            String::from_utf8(answer)
                .ok()
                .filter(|answer| !answer.is_empty())
        })
        .await?;
        ensure!(page.ends_with("six\n"), "{transport}: {page}");
        let port = format!(":{host_port}");
        let forward = node.crictl_forward(&[transport, &host.id, &port]).await?;
        let answer = crisp_e2e::until("the host pod's port answers", async || {
            ask(forward.address, b"host")
                .await
                .ok()
                .filter(|answer| !answer.is_empty())
        })
        .await?;
        ensure!(answer == b"host", "{transport}: {answer:?}");
    }
    // A port where nobody listens ends the connection, not the session.
    let forward = node.crictl_forward(&[&pod.id, ":9"]).await?;
    ensure!(
        ask(forward.address, b"x")
            .await
            .unwrap_or_default()
            .is_empty()
    );
    node.finish().await
}
