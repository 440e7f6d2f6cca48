//! The thread that does the kernel work: one job at a time, and deletions in between.

mod upkeep;
mod uplink;

use self::upkeep::Prepared;
use crate::allocations::Allocations;
use crate::attachment::Attachment;
use crate::host::{self, Host};
use crate::nft::{self, Ruleset};
use crate::reaper::Reaper;
use crate::wire::{Batch, Wire};
use crate::{Error, Settings, link, pod, shape};
use crisp_crash::point;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;
use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often is looked, when there is nothing else to do, whether the node's side is still there.
const VIGIL: Duration = Duration::from_secs(10);

/// Work for the thread.
pub(crate) type Job = Box<dyn FnOnce(&mut Actor) + Send>;

#[derive(Debug)]
pub(crate) struct Actor {
    host: Host,
    reaper: Reaper,
    settings: Settings,
    ruleset: Ruleset,
    allocations: Arc<Mutex<Allocations>>,
    prepared: Option<Prepared>,
}

/// Allocations are changed in one step each, so that a panic in between cannot tear them.
pub(crate) fn lock(allocations: &Mutex<Allocations>) -> MutexGuard<'_, Allocations> {
    allocations.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor {
    /// Opens the sockets. Nothing is changed in the kernel.
    pub(crate) fn open(
        settings: Settings,
        instance: &str,
        allocations: Arc<Mutex<Allocations>>,
    ) -> Result<Self, Error> {
        let open = |protocol| {
            Wire::open(protocol).map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                Error::kernel("open a netlink socket")(errno)
            })
        };
        Ok(Self {
            host: Host {
                route: open(netlink_sys::protocols::NETLINK_ROUTE)?,
                netfilter: open(netlink_sys::protocols::NETLINK_NETFILTER)?,
            },
            reaper: Reaper::default(),
            ruleset: host::ruleset(&settings, instance),
            settings,
            allocations,
            prepared: None,
        })
    }

    /// Works until nobody can send jobs any more.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let now = Instant::now();
            let due = self.reaper.due().unwrap_or(now + VIGIL);
            let job = if due <= now {
                Err(RecvTimeoutError::Timeout)
            } else {
                jobs.recv_timeout(due - now)
            };
            match job {
                Ok(job) => {
                    job(&mut self);
                    self.reaper.put_off();
                }
                Err(RecvTimeoutError::Timeout) if self.reaper.due().is_some() => {
                    self.reaper.reap(&mut self.host.route);
                }
                Err(RecvTimeoutError::Timeout) => self.look_after(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.reaper.reap_all(&mut self.host.route);
    }

    /// The MTU for pods to come is kept where addresses are.
    pub(crate) fn refresh_mtu(&mut self) -> Result<(), Error> {
        let mtu = match (self.settings.mtu, self.settings.uplink()) {
            (Some(mtu), _) => Some(mtu),
            (None, Some(uplink)) => self.host.mtu_by_name(&uplink.name)?,
            (None, None) => self.host.uplink_mtu()?,
        };
        if let Some(mtu) = mtu {
            lock(&self.allocations).mtu = mtu;
        }
        Ok(())
    }

    /// Connects a pod.
    pub(crate) fn attach(
        &mut self,
        attachment: &Attachment,
        netns: BorrowedFd<'_>,
        pod_socket: OwnedFd,
    ) -> Result<(), Error> {
        if let Some(uplink) = &attachment.uplink {
            self.create_child(attachment, uplink, netns, &pod_socket)?;
            return pod::configure(attachment, pod_socket);
        }
        let bridge = self.prepared()?;
        if let Err(error) = self.create_pair(attachment, bridge, netns) {
            let bridge = self.repair(attachment, error)?;
            self.create_pair(attachment, bridge, netns)?;
        }
        self.limit_reception(attachment)?;
        point!("network.pair-made");
        pod::configure(attachment, pod_socket)?;
        point!("network.pod-configured");
        self.open_host_ports(attachment)?;
        point!("network.ports-opened");
        Ok(())
    }

    /// Cuts a pod off. What is left to do then, the deletion of its link, is done later.
    pub(crate) fn detach(&mut self, attachment: &Attachment) -> Result<(), Error> {
        // For a pod that nobody knows, because it was detached before or the daemon was restarted:
        // its host ports are closed only if they have not become another pod's.
        let owned = lock(&self.allocations).adopt(attachment).is_ok();
        if attachment.uplink.is_none() {
            self.disable_port(&attachment.host_interface)?;
        }
        point!("network.port-disabled");
        if owned {
            self.close_host_ports(attachment)?;
            point!("network.ports-closed");
            lock(&self.allocations).release(&attachment.pod);
        }
        Ok(())
    }

    /// Removes what belongs to no known pod, but for the links named.
    pub(crate) fn collect_garbage(&mut self, keep: &HashSet<String>) -> Result<(), Error> {
        if let Some(bridge) = self.host.bridge_index(&self.settings.bridge)? {
            for name in self.host.pod_ports(bridge)? {
                let known = lock(&self.allocations).knows_interface(&name);
                if !known && !keep.contains(&name) {
                    tracing::info!(link = %name, "removing the link of a pod that is not known");
                    self.disable_port(&name)?;
                }
            }
        }
        self.restore()
    }

    /// Waits for the deletions that are due.
    pub(crate) fn flush(&mut self) {
        self.reaper.reap_all(&mut self.host.route);
    }

    /// Removes bridge and packet table.
    pub(crate) fn destroy(&mut self) -> Result<(), Error> {
        let pods = lock(&self.allocations).len();
        if pods > 0 {
            return Err(Error::InUse { pods });
        }
        self.flush();
        self.prepared = None;
        self.host.remove_tables(&self.ruleset)?;
        if self.host.bridge_index(&self.settings.bridge)?.is_some() {
            let mut batch = Batch::default();
            batch.push_forgiving(
                "delete the bridge",
                NLM_F_ACK,
                link::delete_by_name(&self.settings.bridge),
                &[Errno::ENODEV],
            );
            self.host.route.transact(batch)?;
        }
        Ok(())
    }

    fn create_pair(
        &mut self,
        attachment: &Attachment,
        bridge: u32,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.push(
            "make the pod's interface",
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            link::new_pair(attachment, bridge, netns),
        );
        batch.push(
            "set up the pod's port of the bridge",
            NLM_F_ACK,
            link::describe_port(attachment),
        );
        batch.push_forgiving(
            "set up the pod's port of the bridge",
            NLM_F_ACK,
            link::no_automatic_address(&attachment.host_interface),
            // The kernel has no IPv6.
            &[Errno::EAFNOSUPPORT],
        );
        Ok(self.host.route.transact(batch)?)
    }

    /// Limits what goes to a pod, if that is to be.
    fn limit_reception(&mut self, attachment: &Attachment) -> Result<(), Error> {
        if attachment.bandwidth.to_pod.is_none() {
            return Ok(());
        }
        let request = link::get_by_name(&attachment.host_interface);
        let link = host::find_link(&mut self.host.route, request)?
            .ok_or_else(|| Error::kernel("find the pod's port of the bridge")(Errno::ENODEV))?;
        let mut batch = Batch::default();
        shape::push(&mut batch, link.header.index, attachment.bandwidth.to_pod);
        Ok(self.host.route.transact(batch)?)
    }

    /// Removes the reason why a pod's interface could not be made, if that can be done, and returns
    /// the bridge's index.
    fn repair(&mut self, attachment: &Attachment, error: Error) -> Result<u32, Error> {
        if error.errno() == Some(Errno::EEXIST) {
            // An attempt that a killed daemon began.
            self.delete_link(&attachment.host_interface)?;
            return self.prepared();
        }
        let known = self.prepared.as_ref().map(|prepared| prepared.bridge_index);
        if self.host.bridge_index(&self.settings.bridge)? == known {
            return Err(error);
        }
        self.prepare_again()
    }

    fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.push_forgiving(
            "delete a stale interface",
            NLM_F_ACK,
            link::delete_by_name(name),
            &[Errno::ENODEV],
        );
        Ok(self.host.route.transact(batch)?)
    }

    fn disable_port(&mut self, host_interface: &str) -> Result<(), Error> {
        let mut batch = Batch::default();
        for message in [
            link::silence_port(host_interface),
            link::block_port(host_interface),
        ] {
            batch.push_forgiving(
                "cut off the pod's interface",
                NLM_F_ACK,
                message,
                &[
                    // It never was, or went with its namespace.
                    Errno::ENODEV,
                    // It is not on the bridge.
                    Errno::EOPNOTSUPP,
                    // It has no carrier.
                    Errno::ENETDOWN,
                ],
            );
        }
        self.host.route.transact(batch)?;
        self.reaper.doom(host_interface.to_owned());
        Ok(())
    }

    fn open_host_ports(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let changes = nft::add_host_ports(&self.ruleset.table, attachment);
        if changes.is_empty() {
            return Ok(());
        }
        self.enable_loopback_routing(attachment)?;
        self.host.netfilter.transact(changes.into_batch())?;
        self.forget_udp(attachment);
        Ok(())
    }

    fn close_host_ports(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let changes = nft::remove_host_ports(&self.ruleset.table, attachment);
        if changes.is_empty() {
            return Ok(());
        }
        match self.host.netfilter.transact(changes.into_batch()) {
            Err(refusal) if refusal.source.errno == Errno::ENOENT => {
                self.rebuild_tables_without(attachment)?;
            }
            result => result?,
        }
        self.forget_udp(attachment);
        Ok(())
    }

    /// For when an element that should be there is not: a half-made pod, or a table that somebody
    /// else changed.
    fn rebuild_tables_without(&mut self, attachment: &Attachment) -> Result<(), Error> {
        if self.prepared.is_none() && !self.host.has_table(&self.ruleset) {
            return Ok(());
        }
        let allocations = lock(&self.allocations);
        let others = allocations
            .bridged()
            .filter(|other| other.pod != attachment.pod);
        let networks = allocations.gateways();
        self.host.rebuild_tables(&self.ruleset, &networks, others)
    }

    fn forget_udp(&mut self, attachment: &Attachment) {
        if let Err(refusal) = self.host.netfilter.transact(nft::forget_udp(attachment)) {
            tracing::warn!(
                pod = %attachment.pod,
                error = %refusal.source,
                "old UDP connections to a host port live on until they time out"
            );
        }
    }
}
