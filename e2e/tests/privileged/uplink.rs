//! Pods on a link of the node's, with addresses of that link's own network.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{PodSandboxStatsRequest, PortMapping};
use crisp_e2e::catalog::{NGINX, NGINX_PAGE};
use crisp_e2e::{Container, Node, Pod, image_spec, until};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use toml::Table;

/// A link of the host's that leads to the router of the pods' network. Both go with this.
struct Uplink {
    link: String,
    router: String,
}

impl Uplink {
    fn new(test: &str) -> Result<Self> {
        let number = std::process::id();
        let uplink = Self {
            link: format!("up{test}{number}"),
            router: format!("crisp-e2e-router-{test}{number}"),
        };
        ip(&format!("netns add {}", uplink.router))?;
        ip(&format!(
            "link add {} type veth peer name eth0 netns {}",
            uplink.link, uplink.router
        ))?;
        ip(&format!("link set {} up", uplink.link))?;
        for link in ["lo", "eth0"] {
            uplink.router_ip(&format!("link set {link} up"))?;
        }
        Ok(uplink)
    }

    fn router_ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-n {} {arguments}", self.router))
    }

    /// Puts the daemon's pods on the link; the router gets the first address of their ranges.
    fn configure(&self, config: &mut Table) {
        let network = config["network"].as_table_mut().expect("a section");
        for range in network["pod_cidrs"].as_array().expect("ranges") {
            let range = range.as_str().expect("a range");
            let router = range.replace(".0/", ".1/").replace("::/", "::1/");
            let probing = if router.contains(':') { " nodad" } else { "" };
            self.router_ip(&format!("addr add {router} dev eth0{probing}"))
                .expect("the router can have the address");
        }
        network.insert("mode".to_owned(), "macvlan".into());
        network.insert("uplink".to_owned(), self.link.clone().into());
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // What was not made cannot be removed. The link goes with its peer.
        let _ = ip(&format!("link del {}", self.link));
        let _ = ip(&format!("netns del {}", self.router));
    }
}

/// Runs ip(8).
fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Has a container fetch a page from each address of another pod, and ask its routers whether they
/// are there.
async fn reaches(client: &Container<'_>, server: &[IpAddr]) -> Result<()> {
    for address in server {
        let url = format!("http://{}/", SocketAddr::new(*address, 80));
        until(&format!("a page of {url}"), async || {
            let page = client.sh(&format!("wget -q -O - {url}")).await;
            page.is_ok_and(|page| page == NGINX_PAGE.trim_end())
                .then_some(())
        })
        .await?;
    }
    for family in ["-4", "-6"] {
        let router = format!("$(ip {family} route | sed -n 's/^default via \\([^ ]*\\) .*/\\1/p')");
        let answers = client.sh(&format!("ping -c 1 -W 10 {router}")).await?;
        ensure!(answers.contains(" 1 packets received"), "{answers}");
    }
    Ok(())
}

/// Bytes that a pod's interface has got.
async fn received(node: &Node, pod: &Pod<'_>) -> Result<u64> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    let stats = node.runtime().pod_sandbox_stats(request).await?;
    let linux = stats.into_inner().stats.and_then(|stats| stats.linux);
    let interface = linux.and_then(|linux| linux.network?.default_interface);
    let bytes = interface.and_then(|interface| interface.rx_bytes);
    Ok(bytes.context("no traffic is told")?.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pods_on_an_uplink_reach_each_other_and_their_router() -> Result<()> {
    let uplink = Uplink::new("a")?;
    let node = Node::start_with(|config| uplink.configure(config)).await?;
    node.pull(NGINX).await?;
    let server = node.run_pod("server", |_| ()).await?;
    let nginx = server.start("nginx", |config| {
        config.image = Some(image_spec(NGINX));
        config.command.clear();
    });
    let _nginx = nginx.await?;
    let client = node.run_pod("client", |_| ()).await?;
    let client = client.start("main", |_| ()).await?;
    let addresses = server.addresses().await?;
    ensure!(addresses.len() == 2, "{addresses:?}");
    reaches(&client, &addresses).await?;
    ensure!(received(&node, &server).await? > NGINX_PAGE.len() as u64);
    let told = node.crisp(&["inspect", &server.id]).await?.stdout;
    ensure!(told.contains(&format!(", on {}", uplink.link)), "{told}");
    let checked = node.crisp(&["check"]).await?.stdout;
    ensure!(
        checked.contains(&format!("macvlan on {}", uplink.link)),
        "{checked}"
    );

    node.kill()?;
    node.restart().await?;
    ensure!(server.addresses().await? == addresses);
    reaches(&client, &addresses).await?;
    let late = node.run_pod("late", |_| ()).await?;
    ensure!(!addresses.contains(&late.addresses().await?[0]));

    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_on_an_uplink_is_refused_host_ports_by_name() -> Result<()> {
    let uplink = Uplink::new("b")?;
    let node = Node::start_with(|config| uplink.configure(config)).await?;
    let refused = node.run_pod("ports", |config| {
        config.port_mappings.push(PortMapping {
            container_port: 80,
            host_port: 8080,
            ..PortMapping::default()
        });
    });
    let status = refused.await.err().context("a host port on an uplink")?;
    ensure!(
        status.code() == tonic::Code::InvalidArgument
            && status.message().contains("8080")
            && status.message().contains("network.mode"),
        "{status:?}"
    );
    node.finish().await
}
