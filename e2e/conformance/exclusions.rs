//! Which specs are run, and why others cannot be here.

use crate::host;
use anyhow::Result;
use crisp_e2e::cgroups_are_v2;

/// The label of those that every node has to pass.
pub(crate) const LABEL: &str = "NodeConformance";

/// Parts of the names of specs that are labelled so but cannot be run by this driver, and the reasons.
const ANYWHERE: [Exclusion; 18] = [
    ("[Feature:CPUManager]", RESTARTS_KUBELET),
    ("[Feature:DevicePlugin]", RESTARTS_KUBELET),
    ("[Feature:PodResourcesAPI]", RESTARTS_KUBELET),
    ("Container Runtime Conformance Test", RESTARTS_KUBELET),
    ("ImageGarbageCollect [Serial]", RESTARTS_KUBELET),
    (
        "Kubelet Endpoints [NodeConformance] [Serial] when config is updated",
        RESTARTS_KUBELET,
    ),
    ("KubletTLS [Serial]", RESTARTS_KUBELET),
    ("ReloadKubeletClientCAFileTest", RESTARTS_KUBELET),
    ("MirrorPod [Serial] when kubelet restarts", RESTARTS_KUBELET),
    ("OOMKiller [LinuxOnly]", RESTARTS_KUBELET),
    ("StaticPod [Serial]", RESTARTS_KUBELET),
    (
        "should be able to pull from private registry with secret",
        "its registry is filled from public ones when its image is made",
    ),
    (
        "temporarily failed termination due to volume failing to unmount",
        "no NFS server is among the programs that images are made of",
    ),
    (
        "container runtime is temporarily down",
        "it stops the runtime by systemd",
    ),
    (
        "A node running restartable init containers reboots",
        "it stops the kubelet and the runtime by systemd",
    ),
    (
        "/stats/summary should report resource usage through the stats api",
        "it has the kubelet move all processes of the machine to cgroups",
    ),
    ("Kubelet Cgroup Manager", LOOKS_BELOW_ROOT),
    ("Kubelet PodOverhead handling", LOOKS_BELOW_ROOT),
];
const RESTARTS_KUBELET: &str = "it restarts the kubelet by systemd";
const LOOKS_BELOW_ROOT: &str =
    "it looks for the kubelet's cgroups below the machine's root, not below the node's";
/// The same for kernels without dummy network interfaces.
const WITHOUT_DUMMIES: Exclusion = (
    "PrivilegedPod",
    "it makes a dummy network interface, which this kernel has not",
);
/// The same for hosts whose cgroups are of version 1.
const WITHOUT_V2: Exclusion = (
    "with a critical pod - should avoid swap",
    "it reads a file of cgroups of version 2",
);

/// A part of the names of specs, and why they are not run.
type Exclusion = (&'static str, &'static str);

/// The specs that are wanted but cannot be run on this machine.
#[derive(Debug)]
pub(crate) struct Exclusions(Vec<Exclusion>);

impl Exclusions {
    pub(crate) fn here() -> Result<Self> {
        let of_kernel = (!host::can_make_dummies()?).then_some(WITHOUT_DUMMIES);
        let of_cgroups = (!cgroups_are_v2()).then_some(WITHOUT_V2);
        let of_host = of_kernel.into_iter().chain(of_cgroups);
        Ok(Self(ANYWHERE.into_iter().chain(of_host).collect()))
    }

    /// Parts of the names of those that are not to be run.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Why a spec was not run that would have been else; nothing when nobody asked for it.
    pub(crate) fn reason(&self, name: &str, words: &[String]) -> Option<&'static str> {
        let wanted = words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
        let labelled = name.contains(&format!("[{LABEL}]"));
        let reason = self.0.iter().find(|(part, _)| name.contains(part));
        reason
            .filter(|_| wanted && labelled)
            .map(|(_, reason)| *reason)
    }
}
