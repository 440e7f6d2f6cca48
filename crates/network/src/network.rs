//! The pod network as the rest of crisp sees it.

use crate::actor::{Actor, Job, lock};
use crate::allocations::Allocations;
use crate::attachment::{Attachment, Bandwidth, host_interface};
use crate::{Error, NotReady, Settings, forwarding, pod};
use crisp_model::{PodId, PortMapping};
use ipnet::IpNet;
use nix::errno::Errno;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// How many jobs wait for the thread at most; callers beyond wait before they queue.
const QUEUE: usize = 256;

/// Pauses before an attempt is repeated whose address is still that of a link on the uplink: the
/// kernel takes the links of a namespace that has gone away behind its removal.
const PREDECESSOR_PAUSES_MS: [u64; 5] = [20, 50, 100, 300, 1000];

/// The pod network of one daemon. Clones share it.
///
/// A pod's life: [`allocate`](Self::allocate), then the caller writes the [`Attachment`] into the
/// pod's record, [`attach`](Self::attach), [`detach`](Self::detach). After a restart of the daemon:
/// [`adopt`](Self::adopt) for each record, then [`collect_garbage`](Self::collect_garbage).
///
/// A call goes on in the background if its future is dropped, so that a later `detach` finds the
/// kernel in a known state.
#[derive(Debug, Clone)]
pub struct Network {
    allocations: Arc<Mutex<Allocations>>,
    jobs: Sender<Job>,
    room: Arc<Semaphore>,
}

impl Network {
    /// Opens the sockets to the kernel and starts the thread; changes nothing in the kernel yet.
    ///
    /// `instance` tells daemons apart that run on one node: it is part of the packet table's name.
    /// Empty for the only one. A node without IPv6 uses the pod CIDRs of IPv4 only.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] and [`Error::InvalidCidr`] for settings that cannot work,
    /// [`Error::Kernel`] without netlink.
    pub async fn open(settings: Settings, instance: &str) -> Result<Self, Error> {
        settings.validate()?;
        validate_instance(instance)?;
        let networks = possible(settings.pod_cidrs.clone());
        let allocations = Arc::new(Mutex::new(Allocations::new(&settings, networks)?));
        let actor = Actor::open(settings, instance, Arc::clone(&allocations))?;
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("crisp-netlink".to_owned())
            .spawn(move || actor.run(&queue))
            .map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                Error::kernel("start the network's thread")(errno)
            })?;
        let network = Self {
            allocations,
            jobs,
            room: Arc::new(Semaphore::new(QUEUE)),
        };
        network.call(Actor::look_at_links).await?;
        Ok(network)
    }

    /// Whether pods can be attached, for the CRI's `NetworkReady` condition.
    ///
    /// # Errors
    /// [`NotReady`] with the reason: no pod CIDR is known, or the kernel refused when the node's
    /// side was set up last.
    pub fn ready(&self) -> Result<(), NotReady> {
        let allocations = lock(&self.allocations);
        if allocations.networks().is_empty() {
            return Err(no_cidr());
        }
        allocations.failure.clone().map_or(Ok(()), Err)
    }

    /// Changes where pods to come get their addresses from, as the kubelet says. Pods that have
    /// addresses keep them.
    ///
    /// # Errors
    /// [`Error::InvalidCidr`]; everything stays as it was then.
    pub fn set_pod_cidrs(&self, cidrs: Vec<IpNet>) -> Result<(), Error> {
        let changed = lock(&self.allocations).set_networks(possible(cidrs))?;
        if changed {
            tracing::info!(cidrs = ?lock(&self.allocations).networks(), "pod CIDRs changed");
        }
        Ok(())
    }

    /// Takes addresses and host ports for a pod, in memory. A second call for the same pod returns
    /// the same.
    ///
    /// # Errors
    /// [`Error::Exhausted`], [`Error::PortConflict`], [`Error::InvalidHostIp`], [`Error::NotReady`]
    /// without a pod CIDR; on an uplink [`Error::NoHostPorts`], [`Error::NoBandwidth`]. Nothing is taken
    /// then.
    pub fn allocate(
        &self,
        pod: &PodId,
        mappings: &[PortMapping],
        bandwidth: Bandwidth,
    ) -> Result<Attachment, Error> {
        lock(&self.allocations).allocate(pod, mappings, bandwidth)
    }

    /// Marks as in use what a pod's record says, after a restart. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`Error::AlreadyInUse`] when another pod has its address or host port.
    pub fn adopt(&self, attachment: &Attachment) -> Result<(), Error> {
        lock(&self.allocations).adopt(attachment)
    }

    /// Connects a pod: afterwards it has its addresses, routes and host ports, and loopback.
    ///
    /// `pod_socket` is a `NETLINK_ROUTE` socket that was opened inside the namespace that `netns`
    /// refers to. What a killed daemon left of an earlier attempt is replaced.
    ///
    /// # Errors
    /// [`Error::Kernel`], [`Error::Io`], [`Error::NotABridge`], [`Error::NoUplink`]; the caller then
    /// calls [`detach`](Self::detach).
    pub async fn attach(
        &self,
        attachment: &Attachment,
        netns: BorrowedFd<'_>,
        pod_socket: OwnedFd,
    ) -> Result<(), Error> {
        self.adopt(attachment)?;
        let mut pauses_ms = PREDECESSOR_PAUSES_MS.into_iter();
        loop {
            let attached = self.try_attach(attachment, netns, pod_socket.as_fd()).await;
            match (attached, pauses_ms.next()) {
                (Err(error), Some(pause_ms)) if error.errno() == Some(Errno::EADDRINUSE) => {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                (attached, _) => return attached,
            }
        }
    }

    async fn try_attach(
        &self,
        attachment: &Attachment,
        netns: BorrowedFd<'_>,
        pod_socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let keep = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|_| Error::kernel("keep the pod's namespace")(Errno::last()))
        };
        let (netns, pod_socket) = (keep(netns)?, keep(pod_socket)?);
        let attachment = attachment.clone();
        self.call(move |actor| actor.attach(&attachment, netns.as_fd(), pod_socket))
            .await
    }

    /// Cuts a pod off: when this returns, no packet reaches it or comes from it, and its addresses
    /// and host ports are free. Its link is deleted a little later. On an uplink the link goes with
    /// the pod's namespace, and is not cut off before. May be called for a pod that was never
    /// attached, or repeatedly.
    ///
    /// # Errors
    /// [`Error::Kernel`]; nothing has been given back then, and the caller calls it again.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let attachment = attachment.clone();
        self.call(move |actor| actor.detach(&attachment)).await
    }

    /// Raises loopback in a namespace that gets no other interface from here.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn loopback_up(&self, pod_socket: OwnedFd) -> Result<(), Error> {
        self.call(move |_| pod::raise_loopback(pod_socket)).await
    }

    /// After a restart: removes links on the bridge and host ports that belong to no pod, and restores
    /// what is missing of the node's side for the pods there are. A pod is known here from
    /// [`adopt`](Self::adopt) or [`allocate`](Self::allocate); the links of those in `keep` stay too,
    /// known or not.
    ///
    /// # Errors
    /// [`Error::Kernel`], [`Error::Io`], [`Error::NotABridge`].
    pub async fn collect_garbage(&self, keep: &HashSet<PodId>) -> Result<(), Error> {
        let keep = keep.iter().map(host_interface).collect();
        self.call(move |actor| actor.collect_garbage(&keep)).await
    }

    /// Waits until the links of all detached pods are deleted.
    ///
    /// # Errors
    /// [`Error::ShutDown`].
    pub async fn settle(&self) -> Result<(), Error> {
        self.call(|actor| {
            actor.flush();
            Ok(())
        })
        .await
    }

    /// Removes everything that the daemon has made of the network: the bridge and the packet table.
    /// The switches under `/proc/sys` stay as they are.
    ///
    /// # Errors
    /// [`Error::InUse`] while there are pods, [`Error::Kernel`].
    pub async fn destroy(&self) -> Result<(), Error> {
        self.call(Actor::destroy).await
    }

    /// Has the thread do something.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Actor) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let room = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|_| Error::ShutDown)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |actor| {
            let result = work(actor);
            drop(room);
            // Nobody waits any more when the caller's future was dropped.
            let _ = reply.send(result);
        });
        self.jobs.send(job).map_err(|_| Error::ShutDown)?;
        answer.await.map_err(|_| Error::ShutDown)?
    }
}

/// Why there are no addresses to give.
pub(crate) fn no_cidr() -> NotReady {
    NotReady {
        reason: "no pod CIDR is set, and the kubelet has not sent one yet".to_owned(),
    }
}

/// The pod CIDRs that the kernel can have.
fn possible(mut cidrs: Vec<IpNet>) -> Vec<IpNet> {
    if !forwarding::has_ipv6() {
        cidrs.retain(|cidr| cidr.addr().is_ipv4());
    }
    cidrs
}

/// The name becomes part of a packet table's.
fn validate_instance(instance: &str) -> Result<(), Error> {
    const LONGEST: usize = 64;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if instance.len() <= LONGEST && instance.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::InvalidSetting {
        name: "instance",
        reason: format!("{instance:?} is not up to {LONGEST} letters, digits, '-', '_' or '.'"),
    })
}
