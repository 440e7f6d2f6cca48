//! Clients that vanish in the middle leave no process, descriptor or thread.

use super::{TRANSPORTS, echoing, servants};
use anyhow::{Context, Result, ensure};
use crisp_e2e::{Container, Forward, Node, Pod, Process, Terminal, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;

/// Clients in the middle of what they do.
#[derive(Default)]
struct Clients {
    commands: Vec<Child>,
    terminals: Vec<Terminal>,
    connections: Vec<(TcpStream, Forward)>,
}

impl Clients {
    /// One that types, one that does not read, and one that looks on.
    async fn exec(&mut self, node: &Node, transport: &str, id: &str) -> Result<()> {
        let mut cat = node.start_crictl(&["exec", "-i", transport, id, "cat"])?;
        let stdin = cat.stdin.as_mut().context("its input is a pipe")?;
        stdin.write_all(b"x").await?;
        cat.stdout.as_mut().context("its output")?.read_u8().await?;
        let mut yes = node.start_crictl(&["exec", transport, id, "yes"])?;
        yes.stdout.as_mut().context("its output")?.read_u8().await?;
        self.commands.extend([cat, yes]);
        let mut terminal = node.crictl_on_terminal(&["exec", "-it", transport, id, "sh"])?;
        terminal.enter("echo ready-$((1+1))\r")?;
        terminal.wait_for("ready-2").await?;
        self.terminals.push(terminal);
        Ok(())
    }

    async fn forward(&mut self, node: &Node, transport: &str, pod: &str) -> Result<()> {
        let forward = node.crictl_forward(&[transport, pod, ":7"]).await?;
        let mut stream = TcpStream::connect(forward.address).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        self.connections.push((stream, forward));
        Ok(())
    }

    async fn vanish(mut self) -> Result<()> {
        let forwards = self.connections.iter_mut();
        let forwards = forwards.map(|(_, forward)| &mut forward.crictl);
        for command in self.commands.iter_mut().chain(forwards) {
            command.kill().await?;
        }
        Ok(())
    }
}

/// What servants hold, and how many processes a container has.
async fn held(servants: [Process; 2], container: &Container<'_>) -> Result<[usize; 5]> {
    let [daemon, shim] = servants;
    let pids = container.cgroup("pids").await?;
    Ok([
        daemon.descriptors()?,
        daemon.threads()?,
        shim.descriptors()?,
        shim.threads()?,
        pids.read("pids.current")?.parse()?,
    ])
}

/// What a shim has started, a line for each.
fn running(shim: Process) -> String {
    let lines = shim.children().into_iter().flat_map(|child| {
        let family = child.children().into_iter().chain([child]);
        family.map(|it| format!("{} {:?}", it.command_line(), it.status("State")))
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn one_of_each(node: &Node, pod: &Pod<'_>, container: &Container<'_>) -> Result<Clients> {
    let mut clients = Clients::default();
    for transport in TRANSPORTS {
        clients.exec(node, transport, &container.id).await?;
        clients.forward(node, transport, &pod.id).await?;
    }
    Ok(clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_clients_that_vanish_leave_nothing_behind() -> Result<()> {
    let node = Node::start().await?;
    let (pod, container) = echoing(&node).await?;
    let servants = servants(&node, &container).await?;
    // What is made once stays: the first of each are not counted.
    one_of_each(&node, &pod, &container).await?.vanish().await?;
    let settled = async || {
        let held = held(servants, &container).await.ok()?;
        let [.., processes] = held;
        (processes == 1).then_some(held)
    };
    let before = until("the first clients' processes are gone", settled)
        .await
        .with_context(|| running(servants[1]))?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(one_of_each(&node, &pod, &container).await?);
    }
    let during = held(servants, &container).await?;
    ensure!(during[0] > before[0] && during[4] > before[4], "{during:?}");
    for clients in clients {
        clients.vanish().await?;
    }
    let mut last = during;
    let gone = until("all is as before", async || {
        last = held(servants, &container).await.ok()?;
        // Threads for what may block stay for a while after their work.
        let same = last.iter().zip(&before).all(|(now, before)| now <= before);
        same.then_some(())
    })
    .await;
    gone.with_context(|| format!("{before:?} became {last:?}: {}", running(servants[1])))?;
    node.finish().await
}
