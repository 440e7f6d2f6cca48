//! The pod network: one bridge per node, one veth pair per pod, addresses and routes in the pod,
//! masquerade towards the outside and host ports towards the pods. Or one macvlan or ipvlan link per
//! pod, a child of a link of the node's, with addresses of the network that it is in.
//!
//! No program is executed: links, addresses and routes are made over rtnetlink, packet rules over
//! nfnetlink. The pod's namespace is never entered; a netlink socket that was opened inside it
//! configures its end of the pair.
//!
//! ```text
//!  Network ── allocate, adopt ──▶ Allocations   addresses and host ports in use; memory only
//!     │ attach, detach, garbage …
//!     ▼ bounded queue
//!  Actor (one thread) ── link ──▶ Wire (rtnetlink)     bridge, veth pairs, addresses, routes
//!                     ── nft ───▶ Wire (nfnetlink)     one table: host ports, masquerade
//! ```
//!
//! One thread does all the kernel work. The kernel serialises changes of links by one lock, so that
//! a second thread would gain nothing; and a request made while that lock is held by the clean-up
//! of dead namespaces blocks for up to 150 ms, which a worker of the async runtime must not.
//!
//! What others' packet filters drop stays dropped: an accepting rule in one table cannot overrule a
//! drop in another (a firewall with a dropping forward policy needs its own exception for
//! the bridge).

#![forbid(unsafe_code)]

mod actor;
mod allocations;
mod attachment;
mod error;
mod forwarding;
mod host;
mod link;
mod network;
mod nft;
mod pod;
mod pool;
mod ports;
mod reaper;
mod settings;
mod shape;
mod traffic;
mod wire;

pub use attachment::{
    Attachment, Bandwidth, ChildKind, InterfaceStatistics, InvalidMac, Mac, POD_INTERFACE, Uplink,
};
pub use error::{Error, KernelError, NotReady};
pub use network::Network;
pub use settings::{CniSettings, IpvlanMode, Mode, Settings};
pub use traffic::Traffic;
