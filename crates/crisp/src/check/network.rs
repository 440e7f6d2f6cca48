//! What pods are wired with: the kinds of links and nftables, tried in a network namespace that a child
//! takes along when it ends; the uplink, forwarding and IPv6 of the host.

use super::Finding;
use crisp_cni::Network;
use crisp_engine::Config;
use crisp_network::{Mode, Settings};
use crisp_sys::process::{SingleThreaded, Spawn, spawn};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What can be tried: a bit of the child's exit status each, its name and the kernel's option.
const PARTS: [(u8, &str, &str); 5] = [
    (1, "bridge", "BRIDGE"),
    (2, "veth", "VETH"),
    (4, NFTABLES, "NF_TABLES"),
    (8, "macvlan", "MACVLAN"),
    (16, "ipvlan", "IPVLAN"),
];

/// The part that is no kind of link.
const NFTABLES: &str = "nftables";

/// The child could not try.
const UNTRIED: u8 = 0x80;

/// The answer to a request fits, with all that the kernel repeats of it.
const ANSWER_BYTES: usize = 8192;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let needed = needed(config.network.mode);
    let mut findings = vec![wiring(&config.network)];
    findings.extend(parts(needed, try_parts(needed)));
    if !is_on_uplink(config.network.mode) {
        findings.push(forwarding(&sysctl("ipv4/ip_forward")));
    }
    let wants_ipv6 = config
        .network
        .pod_cidrs
        .iter()
        .any(|cidr| cidr.addr().is_ipv6());
    findings.extend(wants_ipv6.then(|| ipv6(Path::new("/proc/net/if_inet6").exists())));
    findings
}

fn is_on_uplink(mode: Mode) -> bool {
    matches!(mode, Mode::Macvlan | Mode::Ipvlan)
}

/// The bits of the parts that a mode cannot do without.
fn needed(mode: Mode) -> u8 {
    match mode {
        Mode::Auto | Mode::Bridge | Mode::Cni => 1 | 2 | 4,
        Mode::Macvlan => 8,
        Mode::Ipvlan => 16,
    }
}

/// What pods to come are wired with, and why.
fn wiring(settings: &Settings) -> Finding {
    let subject = "pod network";
    let dir = settings.cni.conf_dir.display();
    let bridge = |why: &str| Finding::fine(subject, format!("bridge {}: {why}", settings.bridge));
    let is_needed = match settings.mode {
        Mode::Macvlan | Mode::Ipvlan => {
            return uplink(subject, settings, Path::new("/sys/class/net"));
        }
        Mode::Bridge => return bridge("mode is \"bridge\""),
        Mode::Auto => false,
        Mode::Cni => true,
    };
    match Network::load(&settings.cni.conf_dir) {
        Ok(Some(network)) => plugins(subject, &network, &settings.cni.bin_dirs),
        Ok(None) if !is_needed => bridge(&format!("{dir} has no CNI configuration")),
        Ok(None) => Finding::missing(
            subject,
            format!("mode is \"cni\", and {dir} has no configuration"),
            "only pods on the host's network start",
            "install a network for the cluster, or set network.mode to \"bridge\"",
        ),
        Err(error) => Finding::missing(
            subject,
            error.to_string(),
            "only pods on the host's network start",
            "correct the file, or set network.mode to \"bridge\"",
        ),
    }
}

/// `links` is where the kernel shows the links that there are.
fn uplink(subject: &'static str, settings: &Settings, links: &Path) -> Finding {
    let Settings { mode, uplink, .. } = settings;
    let fact = format!("{} on {uplink}", format!("{mode:?}").to_lowercase());
    match links.join(uplink).exists() {
        true => Finding::fine(subject, fact),
        false => Finding::missing(
            subject,
            format!("{fact}, which is not there"),
            "only pods on the host's network start",
            "make the link, or correct network.uplink",
        ),
    }
}

fn plugins(subject: &'static str, network: &Network, dirs: &[PathBuf]) -> Finding {
    let is_there = |plugin: &&str| dirs.iter().any(|dir| dir.join(plugin).is_file());
    let lacking: Vec<&str> = network.plugin_types().filter(|p| !is_there(p)).collect();
    let fact = format!("CNI network {}: {}", network.name, network.source.display());
    match lacking.is_empty() {
        true => Finding::fine(subject, fact),
        false => Finding::missing(
            subject,
            format!("{fact}; without {}", lacking.join(", ")),
            "only pods on the host's network start",
            "install the plugins into a directory of network.cni.bin_dirs",
        ),
    }
}

fn sysctl(name: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys/net").join(name)).unwrap_or_default()
}

/// The bits of what the kernel lacks of what is needed.
fn try_parts(needed: u8) -> io::Result<u8> {
    let witness = SingleThreaded::verify()?;
    let options = Spawn {
        namespaces: Some(CloneFlags::CLONE_NEWNET),
        ..Spawn::default()
    };
    let child = spawn(&options, &witness, |_| lacking(needed).unwrap_or(UNTRIED))?;
    match waitpid(child.pid, None)? {
        WaitStatus::Exited(_, status) => Ok(u8::try_from(status).unwrap_or(UNTRIED)),
        _ => Ok(UNTRIED),
    }
}

/// Runs in the namespace of its own.
fn lacking(needed: u8) -> io::Result<u8> {
    let mut bits = 0;
    for (bit, name, _) in PARTS.into_iter().filter(|(bit, ..)| needed & bit != 0) {
        let there = match name {
            NFTABLES => has_nftables()?,
            kind => has_link(kind)?,
        };
        bits |= if there { 0 } else { bit };
    }
    Ok(bits)
}

/// Whether the kernel knows a kind of link, by making one. One that has to be on another is refused too,
/// but not as unknown.
fn has_link(kind: &str) -> io::Result<bool> {
    let kind = InfoKind::Other(kind.to_owned());
    let mut link = LinkMessage::default();
    link.attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    let answer = ask(NETLINK_ROUTE, &request)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(error) => Ok(error.raw_code() != -nix::libc::EOPNOTSUPP),
        _ => Ok(true),
    }
}

/// Whether nf_tables answers: NFT_MSG_GETGEN (linux/netfilter/nf_tables.h) has nothing to say but
/// its header and a `struct nfgenmsg` of zeroes.
fn has_nftables() -> io::Result<bool> {
    const NFT_MSG_GETGEN: u16 = 10 << 8 | 16;
    const NLMSG_ERROR: u16 = 2;
    const LENGTH: u32 = 20;
    let mut request = Vec::new();
    request.extend_from_slice(&LENGTH.to_ne_bytes());
    request.extend_from_slice(&NFT_MSG_GETGEN.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request.resize(20, 0);
    match ask(NETLINK_NETFILTER, &request) {
        Ok(answer) => Ok(answer.get(4..6) != Some(&NLMSG_ERROR.to_ne_bytes())),
        // The kernel has no netfilter sockets at all.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
        Err(error) if error.raw_os_error() == Some(nix::libc::EPROTONOSUPPORT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn ask(protocol: isize, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.send(request, 0)?;
    let mut answer = vec![0; ANSWER_BYTES];
    // The kernel has answered when the request was sent.
    let length = socket.recv(&mut &mut answer[..], nix::libc::MSG_DONTWAIT)?;
    answer.truncate(length);
    Ok(answer)
}

fn parts(needed: u8, lacking: io::Result<u8>) -> Vec<Finding> {
    let subject = "network devices";
    let of = |bits: u8| PARTS.into_iter().filter(move |(bit, ..)| bits & bit != 0);
    match lacking {
        Ok(0) => {
            let names: Vec<&str> = of(needed).map(|(_, name, _)| name).collect();
            vec![Finding::fine(subject, names.join(", "))]
        }
        Ok(bits) if bits & UNTRIED == 0 => of(bits)
            .map(|(_, name, option)| part(subject, name, option))
            .collect(),
        other => {
            let why = other
                .err()
                .map(|error| format!(": {error}"))
                .unwrap_or_default();
            vec![Finding::note(
                subject,
                format!("could not be tried{why}"),
                "nobody knows whether pods can be wired",
                "run the check as root",
            )]
        }
    }
}

fn part(subject: &'static str, name: &str, option: &str) -> Finding {
    let module = option.to_lowercase();
    Finding::missing(
        subject,
        format!("no {name}"),
        "no pod can be wired; only those with hostNetwork run",
        format!("modprobe {module}, on a kernel built with CONFIG_{option}"),
    )
}

fn forwarding(ip_forward: &str) -> Finding {
    let subject = "ip_forward";
    match ip_forward.trim() {
        "1" => Finding::fine(subject, "on"),
        "0" => Finding::fine(subject, "off; crisp turns it on with its first pod"),
        _ => Finding::note(
            subject,
            "cannot be read",
            "pods may not reach the outside",
            "mount /proc",
        ),
    }
}

fn ipv6(there: bool) -> Finding {
    let subject = "IPv6";
    match there {
        true => Finding::fine(subject, "on"),
        false => Finding::note(
            subject,
            "not there",
            "pods with an IPv6 address cannot be wired",
            "boot without ipv6.disable=1, or take the IPv6 range out of network.pod_cidrs",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn each_part_that_lacks_is_told() {
        let all = needed(Mode::Bridge);
        assert_eq!(
            parts(all, Ok(0)),
            [Finding::fine("network devices", "bridge, veth, nftables")]
        );
        let lacking = parts(all, Ok(5));
        let facts: Vec<_> = lacking
            .iter()
            .map(|finding| finding.fact.as_str())
            .collect();
        assert_eq!(facts, ["no bridge", "no nftables"]);
        assert!(lacking[1].is_missing());
        assert!(!parts(all, Ok(UNTRIED))[0].is_missing());
        let refused = io::Error::from(ErrorKind::PermissionDenied);
        assert!(
            parts(all, Err(refused))[0]
                .fact
                .starts_with("could not be tried: ")
        );
    }

    #[test]
    fn an_uplink_that_is_not_there_is_missed() {
        let links = tempfile::tempdir().unwrap();
        let settings = Settings {
            mode: Mode::Ipvlan,
            uplink: "eth7".to_owned(),
            ..Settings::default()
        };
        assert!(uplink("pod network", &settings, links.path()).is_missing());
        fs::create_dir(links.path().join("eth7")).unwrap();
        assert_eq!(
            uplink("pod network", &settings, links.path()),
            Finding::fine("pod network", "ipvlan on eth7")
        );
    }

    #[test]
    fn forwarding_is_no_fault_of_the_host() {
        assert_eq!(forwarding("1\n").verdict, Verdict::Fine);
        assert_eq!(forwarding("0\n").verdict, Verdict::Fine);
        assert_ne!(forwarding("").verdict, Verdict::Fine);
    }
}
