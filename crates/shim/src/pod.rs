//! The pod: its namespaces, and the pause process that holds them.

use crate::cgroup;
use crate::connection::{Answer, ReplyTo, Waiters};
use crate::pause_setup::{MAX_REPORT_BYTES, READY, Setup};
use crate::poller::{Event, Interest, Poller, Watched};
use crate::shm::Shm;
use crate::sysctl::{OwnNamespaces, Sysctl, SysctlError};
use crisp_crash::point;
use crisp_shim_api::message::open_socket::Family;
use crisp_shim_api::message::{IdMap, PodExited, PodStarted, StartPod, reply};
use crisp_sys::mount::clones_detached;
use crisp_sys::namespace::{Kind, open_namespace, setns};
use crisp_sys::process::{self, SingleThreaded, Spawn, Spawned};
use crisp_sys::socket::{Wait, receive, send};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;

/// Kernel limit of a host name (`__NEW_UTS_LEN`).
const MAX_HOSTNAME_BYTES: usize = 64;

/// A pod has no pause process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error("{op}")]
    Io {
        op: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("set up the pod: {0}")]
    Setup(String),
    #[error("the pause process died before it was set up")]
    Died,
}

/// What became of the pod so far.
///
/// ```text
/// New ── StartPod ──▶ Starting ── set up ──▶ Running ── pause ended ──▶ Exited
///  ▲                     │
///  └─────── failed ──────┘
/// ```
#[derive(Debug)]
pub(crate) enum Pod {
    New,
    Starting(PodStart),
    Running(Pause),
    Exited(PodExited),
}

/// The pause process.
#[derive(Debug)]
pub(crate) struct Pause {
    pub(crate) process: Spawned,
    network: Network,
    mounts: Mounts,
    pub(crate) shm: Shm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Host,
    Own,
}

/// Whose mount namespace pause is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mounts {
    /// One that another pod's pause has made.
    Lent,
    Own,
    /// Its own, which its user namespace owns: nobody outside of that can enter it.
    OwnOfUsers,
}

/// A pause process that is not set up yet.
#[derive(Debug)]
pub(crate) struct PodStart {
    pub(crate) pause: Pause,
    report: Watched<OwnedFd>,
    /// Who is to be answered.
    pub(crate) waiters: Waiters,
}

impl Pod {
    /// The pause process's pid, as long as there is one.
    pub(crate) fn pause(&self) -> Option<&Spawned> {
        match self {
            Self::New | Self::Exited(_) => None,
            Self::Starting(start) => Some(&start.pause.process),
            Self::Running(pause) => Some(&pause.process),
        }
    }
}

impl PodStart {
    /// Spawns the child that becomes pause. Waits for nothing. `lent` is a mount namespace of other pods.
    pub(crate) fn begin(
        config: &StartPod,
        lent: Option<OwnedFd>,
        reply_to: ReplyTo,
        poller: &Poller,
        witness: &SingleThreaded,
    ) -> Result<Self, PodError> {
        let mut setup = check(config)?;
        // Where /dev/shm stays detached, there is nothing to attach in it.
        setup.lent_mounts = lent.filter(|_| !setup.user_namespace && clones_detached());
        let mounts = match (&setup.lent_mounts, setup.user_namespace) {
            (Some(_), _) => Mounts::Lent,
            (None, false) => Mounts::Own,
            (None, true) => Mounts::OwnOfUsers,
        };
        let born_in =
            cgroup::take_unified(&mut setup.cgroup_dirs).map_err(io("open the cgroup"))?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let executable = open("/proc/self/exe", flags, Mode::empty()).map_err(io("open self"))?;
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(io("make a socket"))?;
        let options = Spawn {
            namespaces: Some(namespaces(config, mounts)),
            cgroup: born_in.as_ref().map(AsFd::as_fd),
            ..Spawn::default()
        };
        let process = process::spawn(&options, witness, |child| {
            setup.run(theirs.as_fd(), &executable, child)
        })
        .map_err(io("spawn the pause process"))?;
        point!("shim.pause-forked");
        let start = Self {
            pause: Pause {
                process,
                network: network(config),
                mounts,
                shm: match config.shm_size_bytes {
                    0 => Shm::None,
                    _ => Shm::AttachedByPause,
                },
            },
            report: poller
                .watch(ours, Event::PauseReport, Interest::Read)
                .map_err(io("watch the pause process"))?,
            waiters: Waiters::new(reply_to),
        };
        start.prepare(config)?;
        point!("shim.pause-prepared");
        Ok(start)
    }

    /// What only the parent can do. When it fails, the child ends with its socket.
    fn prepare(&self, config: &StartPod) -> Result<(), PodError> {
        let pid = self.pause.process.pid;
        set_oom_score_adj(pid, config.oom_score_adj)?;
        if !config.uid_map.is_empty() {
            write_map(pid, "uid_map", &config.uid_map)?;
            write_map(pid, "gid_map", &config.gid_map)?;
            send(self.report.as_fd(), &[0], &[], Wait::Never)
                .map_err(io("tell the pause process"))?;
        }
        Ok(())
    }

    /// How it went, once that is known. Never waits.
    pub(crate) fn finish(&mut self) -> Poll<Result<(), PodError>> {
        let mut buffer = [0; MAX_REPORT_BYTES];
        let mut received = match receive(self.report.as_fd(), &mut buffer, Wait::Never) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(_) => return Poll::Ready(Err(PodError::Died)),
        };
        Poll::Ready(match buffer[..received.bytes].split_first() {
            None => Err(PodError::Died),
            Some((&READY, _)) => {
                if let Some(detached) = received.fds.pop() {
                    self.pause.shm = Shm::Detached(detached);
                }
                Ok(())
            }
            Some((_, text)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                Err(PodError::Setup(text))
            }
        })
    }
}

impl Pause {
    /// The answer to StartPod, with the network's descriptors.
    pub(crate) fn started(&self, witness: &SingleThreaded) -> Result<Answer, PodError> {
        let pause_pid = self.process.pid.as_raw().cast_unsigned();
        let mut fds = match self.network {
            Network::Host => Vec::new(),
            Network::Own => open_network(self.process.pid, witness)?,
        };
        let lends_mounts = self.lends_mounts();
        if lends_mounts {
            fds.push(open_mounts(self.process.pid)?);
        }
        let started = PodStarted {
            pause_pid,
            lends_mounts,
        };
        Ok(Answer {
            body: reply::Body::PodStarted(started),
            fds,
        })
    }

    fn lends_mounts(&self) -> bool {
        self.mounts == Mounts::Own && !matches!(self.shm, Shm::AttachedByPause)
    }

    /// A TCP socket that belongs to the pod's network, which may be the host's.
    pub(crate) fn open_socket(
        &self,
        family: Family,
        witness: &SingleThreaded,
    ) -> Result<OwnedFd, PodError> {
        let socket = match self.network {
            Network::Host => tcp_socket(family),
            Network::Own => within_network(self.process.pid, witness, || tcp_socket(family))?.1,
        };
        socket.map_err(io("make a TCP socket"))
    }
}

fn io<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> PodError {
    move |source| PodError::Io {
        op,
        source: source.into(),
    }
}

fn check(config: &StartPod) -> Result<Setup, PodError> {
    if config.hostname.len() > MAX_HOSTNAME_BYTES || config.hostname.contains('\0') {
        return Err(PodError::Invalid(
            "hostname: longer than 64 bytes".to_owned(),
        ));
    }
    if !config.hostname.is_empty() && !config.new_uts {
        return Err(PodError::Invalid(
            "hostname: it would be the host's".to_owned(),
        ));
    }
    if config.uid_map.is_empty() != config.gid_map.is_empty() {
        return Err(PodError::Invalid(
            "uid_map and gid_map: only one is given".to_owned(),
        ));
    }
    let own = OwnNamespaces {
        network: config.new_network,
        ipc: config.new_ipc,
        uts: config.new_uts,
    };
    let sysctls = config
        .sysctls
        .iter()
        .map(|(name, value)| Sysctl::parse(name, value, own));
    Ok(Setup {
        user_namespace: !config.uid_map.is_empty(),
        hostname: config.hostname.clone(),
        sysctls: sysctls.collect::<Result<_, _>>()?,
        shm_size_bytes: config.shm_size_bytes,
        cgroup_dirs: config.cgroup_dirs.iter().map(PathBuf::from).collect(),
        process_label: config.process_label.clone(),
        file_label: config.file_label.clone(),
        lent_mounts: None,
    })
}

fn namespaces(config: &StartPod, mounts: Mounts) -> CloneFlags {
    let asked = [
        (mounts != Mounts::Lent, CloneFlags::CLONE_NEWNS),
        (config.new_network, CloneFlags::CLONE_NEWNET),
        (config.new_ipc, CloneFlags::CLONE_NEWIPC),
        (config.new_uts, CloneFlags::CLONE_NEWUTS),
        (config.new_pid, CloneFlags::CLONE_NEWPID),
        (!config.uid_map.is_empty(), CloneFlags::CLONE_NEWUSER),
    ];
    let asked = asked
        .into_iter()
        .filter(|(new, _)| *new)
        .map(|(_, flag)| flag);
    asked.fold(CloneFlags::empty(), CloneFlags::union)
}

fn network(config: &StartPod) -> Network {
    if config.new_network {
        Network::Own
    } else {
        Network::Host
    }
}

/// Without the privilege to lower it (`CAP_SYS_RESOURCE`), the value that was inherited stays.
fn set_oom_score_adj(pid: Pid, value: i32) -> Result<(), PodError> {
    match fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.map_err(io("set oom_score_adj")),
    }
}

/// The kernel takes a map in one write(2).
fn write_map(pid: Pid, file: &'static str, map: &[IdMap]) -> Result<(), PodError> {
    use std::fmt::Write;
    let mut text = String::new();
    for IdMap {
        container_id,
        host_id,
        length,
    } in map
    {
        writeln!(text, "{container_id} {host_id} {length}").expect("a String takes all");
    }
    fs::write(format!("/proc/{pid}/{file}"), text).map_err(io(file))
}

/// The network namespace of a process, and a NETLINK_ROUTE socket that was made in it and so belongs
/// to it wherever it is used.
fn open_network(pid: Pid, witness: &SingleThreaded) -> Result<Vec<OwnedFd>, PodError> {
    let (namespace, netlink) = within_network(pid, witness, netlink_socket)?;
    Ok(vec![
        namespace,
        netlink.map_err(io("make a netlink socket"))?,
    ])
}

fn open_mounts(pid: Pid) -> Result<OwnedFd, PodError> {
    let path = format!("/proc/{pid}/ns/mnt");
    open_namespace(Path::new(&path), Kind::Mount).map_err(io("open the mount namespace"))
}

/// Does something in the network namespace of a process, and gives that namespace too.
fn within_network<T>(
    pid: Pid,
    witness: &SingleThreaded,
    work: impl FnOnce() -> T,
) -> Result<(OwnedFd, T), PodError> {
    let open = |path: &str| open_namespace(Path::new(path), Kind::Network);
    let ours = open("/proc/self/ns/net").map_err(io("open the host's network namespace"))?;
    let theirs = open(&format!("/proc/{pid}/ns/net")).map_err(io("open the network namespace"))?;
    let kind = Kind::Network.flag();
    setns(&theirs, kind, witness).map_err(io("enter the network namespace"))?;
    let done = work();
    setns(&ours, kind, witness).expect("a process can always return to where it came from");
    Ok((theirs, done))
}

fn tcp_socket(family: Family) -> Result<OwnedFd, Errno> {
    let family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, SockProtocol::Tcp)
}

fn netlink_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkRoute,
    )
}
