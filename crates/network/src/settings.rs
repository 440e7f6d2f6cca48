//! What an administrator may set about the pod network.

use crate::Error;
use crate::attachment::{ChildKind, Uplink};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// The longest name an interface can have (`IFNAMSIZ` less its zero byte).
pub(crate) const INTERFACE_NAME_MAX: usize = 15;

/// The smallest MTU that IPv6 works with (RFC 8200, section 5).
const MTU_MIN: u32 = 1280;
/// The largest MTU of a veth.
const MTU_MAX: u32 = 65535;

/// Beside the ranges that docker, podman, CRI-O and kubeadm's usual networks take.
const DEFAULT_IPV4_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 87, 0, 0), 16);
/// A unique local network (RFC 4193) whose 40 bits spell "crisp".
const DEFAULT_IPV6_CIDR: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd63, 0x7269, 0x7370, 0, 0, 0, 0, 0), 64);

/// Who wires pods, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// CNI plugins where the node has a configuration for them, else the bridge.
    #[default]
    Auto,
    /// The bridge.
    Bridge,
    /// CNI plugins; without a configuration for them pods with a network of their own wait.
    Cni,
    /// Each pod has a link of its own on the uplink, with its own hardware address.
    Macvlan,
    /// Each pod has a link of its own on the uplink, under the uplink's hardware address.
    Ipvlan,
}

/// Where CNI plugins and what configures them are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CniSettings {
    /// The first file by name counts; read again whenever a pod is started.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
}

impl Default for CniSettings {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
                .map(PathBuf::from)
                .to_vec(),
        }
    }
}

/// At which layer an ipvlan link and its uplink meet (kernel, networking/ipvlan.rst, "Modes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpvlanMode {
    /// Pods resolve their neighbours themselves.
    #[default]
    L2,
    /// The node routes for them; no broadcast or multicast reaches them.
    L3,
    /// As L3, and the node's packet filter sees their packets.
    L3s,
}

/// The pod network's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What pods to come are wired with. Pods that there are keep what they have.
    pub mode: Mode,
    /// The bridge that pods are connected to; made when the first pod needs it. Daemons that run
    /// side by side need one each.
    pub bridge: String,
    /// Where pods get their addresses from: at most one network for each of IPv4 and IPv6. The first
    /// address of each is the bridge's own. Replaced by what the kubelet sends
    /// (UpdateRuntimeConfig). Empty: pods wait until the kubelet has sent something.
    pub pod_cidrs: Vec<IpNet>,
    /// The link that pods are on with [`Mode::Macvlan`] and [`Mode::Ipvlan`].
    pub uplink: String,
    /// The routers of the uplink's network, at most one of each family. The first address of a pod
    /// CIDR is the router's where none is named.
    pub gateways: Vec<IpAddr>,
    pub ipvlan_mode: IpvlanMode,
    /// The MTU of the pods' interfaces, in bytes. Unset: that of the link of the default route, or of
    /// the uplink.
    pub mtu: Option<u32>,
    /// Whether traffic from a pod to the outside gets the node's address as its source. Turn it off
    /// where the pod networks are routed.
    pub masquerade: bool,
    /// Destinations that pods reach under their own address in spite of `masquerade`: usually the
    /// pod networks of the other nodes.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Whether host ports of IPv4 answer on 127.0.0.1 too. It needs `route_localnet` on the bridge,
    /// and a rule that keeps pods away from 127.0.0.0/8 of the node; both are set up with the first
    /// host port. (The kernel has no such thing for ::1.)
    pub loopback_host_ports: bool,
    pub cni: CniSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            bridge: "crisp0".to_owned(),
            uplink: String::new(),
            gateways: Vec::new(),
            ipvlan_mode: IpvlanMode::default(),
            pod_cidrs: vec![DEFAULT_IPV4_CIDR.into(), DEFAULT_IPV6_CIDR.into()],
            mtu: None,
            masquerade: true,
            non_masquerade_cidrs: Vec::new(),
            loopback_host_ports: true,
            cni: CniSettings::default(),
        }
    }
}

impl Settings {
    /// Refuses what the kernel would refuse later, or what would be misunderstood.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] or [`Error::InvalidCidr`], naming what is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        check_interface_name("bridge", &self.bridge)?;
        if self.uplink().is_some() {
            check_interface_name("uplink", &self.uplink)?;
        }
        let of_family = |ipv6| self.gateways.iter().filter(move |g| g.is_ipv6() == ipv6);
        if of_family(false).count() > 1 || of_family(true).count() > 1 {
            return Err(Error::InvalidSetting {
                name: "gateways",
                reason: "at most one of each family is allowed".to_owned(),
            });
        }
        if let Some(mtu) = self.mtu
            && !(MTU_MIN..=MTU_MAX).contains(&mtu)
        {
            return Err(Error::InvalidSetting {
                name: "mtu",
                reason: format!("{mtu} is not within {MTU_MIN} to {MTU_MAX}"),
            });
        }
        let dirs = self.cni.bin_dirs.iter().chain([&self.cni.conf_dir]);
        if let Some(bad) = dirs.into_iter().find(|dir| !is_search_dir(dir)) {
            return Err(Error::InvalidSetting {
                name: "cni",
                reason: format!("{bad:?} is not an absolute path without ':'"),
            });
        }
        crate::pool::validate_networks(&self.pod_cidrs)
    }

    /// What the links of pods to come are children of; none: they are on the bridge.
    pub(crate) fn uplink(&self) -> Option<Uplink> {
        let kind = match self.mode {
            Mode::Auto | Mode::Bridge | Mode::Cni => return None,
            Mode::Macvlan => ChildKind::Macvlan,
            Mode::Ipvlan => ChildKind::Ipvlan(self.ipvlan_mode),
        };
        Some(Uplink {
            name: self.uplink.clone(),
            kind,
        })
    }
}

fn check_interface_name(setting: &'static str, name: &str) -> Result<(), Error> {
    if is_interface_name(name) {
        return Ok(());
    }
    Err(Error::InvalidSetting {
        name: setting,
        reason: format!(
            "{name:?} is not 1 to {INTERFACE_NAME_MAX} letters, digits, '-', '_' or '.'"
        ),
    })
}

/// Plugins get the directories as one text, with ':' in between.
fn is_search_dir(dir: &Path) -> bool {
    dir.is_absolute() && dir.to_str().is_some_and(|text| !text.contains(':'))
}

/// Narrower than the kernel's own rule: the name is also part of paths under `/proc/sys`.
fn is_interface_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.bytes().all(|b| b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_toml() {
        let settings = Settings::default();
        settings.validate().unwrap();
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
        assert_eq!(toml::from_str::<Settings>("").unwrap(), settings);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<Settings>("brigde = \"x\"").is_err());
    }

    #[test]
    fn a_bridge_name_that_is_a_path_or_too_long_is_refused() {
        for bad in ["", "..", "a/b", "sixteen-letters-x", "a b"] {
            let settings = Settings {
                bridge: bad.to_owned(),
                ..Settings::default()
            };
            assert!(settings.validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_uplink_is_needed_where_pods_are_on_one() {
        for mode in [Mode::Macvlan, Mode::Ipvlan] {
            let mut settings = Settings {
                mode,
                ..Settings::default()
            };
            let error = settings.validate().unwrap_err();
            assert!(error.to_string().contains("uplink"), "{error}");
            settings.uplink = "eth0".to_owned();
            settings.validate().unwrap();
            settings.gateways = ["10.0.0.1", "fe80::1"].map(|g| g.parse().unwrap()).to_vec();
            settings.validate().unwrap();
            settings.gateways.push("10.0.0.2".parse().unwrap());
            assert!(settings.validate().is_err());
        }
    }

    #[test]
    fn an_mtu_too_small_for_ipv6_is_refused() {
        let settings = Settings {
            mtu: Some(576),
            ..Settings::default()
        };
        assert!(settings.validate().is_err());
    }
}
