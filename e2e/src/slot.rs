//! What keeps tests apart that run at the same time: a number, and a directory of that number.

use crate::{leftovers, net};
use anyhow::{Result, ensure};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// More than tests ever run side by side.
const SLOTS: u8 = 200;

/// Of the whole machine, as bridges and cgroups are, wherever temporary files are.
const LOCKS: &str = "/tmp/crisp-e2e";

/// Where systemd has the slices of the pods of a kubelet whose root of cgroups is the machine's.
pub(crate) const KUBELETS_SLICE: &str = "/kubepods.slice";

/// A number that nobody else on this machine uses, as long as this lives. The kernel drops the lock
/// when the process ends; the next owner sweeps what such a predecessor left.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    dir: PathBuf,
    netns: Option<PathBuf>,
    cgroup: String,
    _lock: File,
}

impl Slot {
    /// The first that is free, its directory empty.
    ///
    /// # Panics
    /// Without root, which every privileged test needs.
    #[must_use]
    pub fn take() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the privileged tests need root: run 'sudo hack/test.sh', or 'sudo -E cargo test -p crisp-e2e' after 'sudo hack/test.sh --prepare'"
        );
        let base = std::env::temp_dir().join("crisp-e2e");
        for dir in [Path::new(LOCKS), &base] {
            fs::create_dir_all(dir).expect("temporary directories can be written");
        }
        let slot = (1..=SLOTS)
            .find_map(|number| Self::try_take(&base, number))
            .expect("a slot is free");
        slot.sweep();
        fs::create_dir(&slot.dir).expect("the slot's directory was swept");
        slot
    }

    fn try_take(base: &Path, number: u8) -> Option<Self> {
        let lock = Path::new(LOCKS).join(format!("{number}.lock"));
        let lock = File::create(lock).expect("lock files can be made");
        match lock.try_lock() {
            Ok(()) => Some(Self {
                number,
                dir: base.join(number.to_string()),
                netns: None,
                cgroup: format!("/crisp-e2e-{number}"),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => panic!("lock of slot {number}: {error}"),
        }
    }

    /// The same with a network namespace of its own, in which its loopback is up.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub fn take_apart() -> Result<Self> {
        let mut slot = Self::take();
        let netns = slot.dir.join("host-netns");
        net::make_netns(&netns)?;
        slot.netns = Some(netns);
        let status = slot
            .command("ip")
            .args(["link", "set", "lo", "up"])
            .status()?;
        ensure!(status.success(), "ip: {status}");
        Ok(slot)
    }

    /// The same with its pods below the slice where a kubelet has systemd put those of all kinds. It is
    /// swept with the slot.
    ///
    /// # Errors
    /// There is one already, of another kubelet.
    pub fn take_with_slice_of_kubelets() -> Result<Self> {
        let mut slot = Self::take();
        let taken = leftovers::places_of_cgroup(KUBELETS_SLICE).any(|dir| dir.exists());
        ensure!(
            !taken,
            "another kubelet of this machine has {KUBELETS_SLICE}"
        );
        KUBELETS_SLICE.clone_into(&mut slot.cgroup);
        Ok(slot)
    }

    /// A program on the slot's machine: in its network namespace, if it has one of its own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(netns) = &self.netns else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", netns.display()))
            .arg("--")
            .arg(program);
        command
    }

    /// For files; removed when the slot is dropped.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its daemon keeps images and records.
    pub(crate) fn root_dir(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where its daemon keeps what belongs to running pods.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where the log directories of pods are.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join("logs")
    }

    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The name of the bridge that its pods are wired to.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("ce2e{}", self.number)
    }

    /// Tells its daemon from others; the daemon's nftables table ends with it.
    #[must_use]
    pub fn instance(&self) -> String {
        format!("e2e{}", self.number)
    }

    /// Above all its pods, absolute in every hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.cgroup.clone()
    }

    /// The name of its network of CNI plugins; none is the beginning of another.
    #[must_use]
    pub fn cni_network(&self) -> String {
        format!("e2e-{}-net", self.number)
    }

    /// The name of the bridge that CNI's plugin of this name wires pods to.
    #[must_use]
    pub fn cni_bridge(&self) -> String {
        format!("ce2ec{}", self.number)
    }

    pub(crate) fn cni_ranges(&self) -> [String; 2] {
        [
            format!("10.212.{}.0/24", self.number),
            format!("fd00:c414:{:x}::/64", self.number),
        ]
    }

    /// Where its daemon tells its metrics: every address of 127.0.0.0/8 is the host's own.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        ([127, 87, self.number, 1], 9469).into()
    }

    pub(crate) fn pod_cidrs(&self) -> [String; 2] {
        [
            format!("10.213.{}.0/24", self.number),
            format!("fd00:c415:{:x}::/64", self.number),
        ]
    }

    /// Networks for 4,000 pods, for who needs more than [`Slot::pod_cidrs`] has addresses for.
    pub(crate) fn wide_cidrs(&self) -> [String; 2] {
        let (high, low) = (self.number / 16, self.number % 16);
        [
            format!("10.{}.{}.0/20", 224 + high, 16 * low),
            format!("fd00:c416:{:x}::/64", self.number),
        ]
    }

    /// Ends and removes everything of this slot, without the daemon's help.
    fn sweep(&self) {
        leftovers::sweep(self);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.sweep();
    }
}
