//! Pods on an uplink: their links are made in their namespaces, and nothing is set up on the node.

use super::upkeep::chain;
use super::{Actor, lock};
use crate::attachment::{Attachment, Uplink};
use crate::wire::{Batch, Wire};
use crate::{Error, NotReady, link};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl Actor {
    /// Learns of the links that pods to come depend on: the MTU, and whether the uplink is there.
    pub(crate) fn look_at_links(&mut self) -> Result<(), Error> {
        self.refresh_mtu()?;
        if let Some(uplink) = self.settings.uplink() {
            let missing = self.uplink_index(&uplink).err();
            lock(&self.allocations).failure = missing.map(|error| NotReady {
                reason: chain(&error),
            });
        }
        Ok(())
    }

    /// Makes a pod's link. What an earlier attempt left in the pod's namespace is replaced.
    pub(super) fn create_child(
        &mut self,
        attachment: &Attachment,
        uplink: &Uplink,
        netns: BorrowedFd<'_>,
        pod_socket: &OwnedFd,
    ) -> Result<(), Error> {
        let index = self.uplink_index(uplink)?;
        let make = || {
            let mut batch = Batch::default();
            batch.push(
                "make the pod's interface",
                NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
                link::new_child(attachment, uplink.kind, index, netns),
            );
            batch
        };
        match self.host.route.transact(make()) {
            Err(refusal) if refusal.source.errno == Errno::EEXIST => {
                remove_stale(attachment, pod_socket)?;
                Ok(self.host.route.transact(make())?)
            }
            made => Ok(made?),
        }
    }

    fn uplink_index(&mut self, uplink: &Uplink) -> Result<u32, Error> {
        let index = self.host.index_by_name(&uplink.name)?;
        index.ok_or_else(|| Error::NoUplink {
            name: uplink.name.clone(),
        })
    }
}

fn remove_stale(attachment: &Attachment, pod_socket: &OwnedFd) -> Result<(), Error> {
    let socket = pod_socket
        .as_fd()
        .try_clone_to_owned()
        .map_err(|_| Error::kernel("use the pod's socket")(Errno::last()))?;
    let mut batch = Batch::default();
    batch.push_forgiving(
        "delete a stale interface",
        NLM_F_ACK,
        link::delete_by_name(&attachment.pod_interface),
        &[Errno::ENODEV],
    );
    Ok(Wire::over(socket).transact(batch)?)
}
