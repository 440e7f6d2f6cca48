//! The first stage: a child of the caller that sees the host, gathers all that comes from there, and
//! spawns the process itself as another child of the caller.

mod cgroups;
mod devices;
mod hooks;
pub(crate) mod limits;
mod overlay;
mod propagation;
pub(crate) mod rootfs;
pub(crate) mod sources;
pub(crate) mod users;

pub(crate) use cgroups::Cgroups;
pub(crate) use devices::Node;
pub(crate) use hooks::InitHooks;
pub(crate) use sources::{CgroupDir, Opened, Prepared};

use crate::error::{Context, StartError};
use crate::plan::{ContainerPlan, ExecPlan, SeccompFilter, Stdio};
use crate::report::Reporter;
use crate::spec::{Container, IdMaps, Namespaces, ProcessPlan};
use crate::stage_two::{self, HostProc, labels};
use crate::starting::conclude;
use crisp_sys::file::read_open_bounded;
use crisp_sys::memory;
use crisp_sys::namespace::{self, Identity, Kind, identity, identity_at, open_namespace};
use crisp_sys::process::{self, Child, Parent, SingleThreaded, Spawn, pidfd_send_signal};
use crisp_sys::security::{join_new_session_keyring, set_dumpable};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, Uid, fchown};
use oci_spec::runtime::Spec;
use std::convert::Infallible;
use std::fs::File;
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The file of a bundle that holds the spec.
pub(crate) const SPEC_FILE: &str = "config.json";

/// Longest config.json; the largest that a kubelet causes are some 100 KiB.
const SPEC_BYTES_MAX: u64 = 16 << 20;

/// What the second stage of a container needs from the host.
pub(crate) struct Init<'a> {
    pub(crate) container: Container,
    pub(crate) hooks: Option<InitHooks>,
    pub(crate) root: OwnedFd,
    /// Whether the first stage has entered the namespaces and the root already, but for the namespaces of
    /// pids and cgroups.
    pub(crate) entered: bool,
    pub(crate) mounts: Vec<Prepared>,
    /// As in [`ContainerPlan`].
    pub(crate) mounts_from: Option<BorrowedFd<'a>>,
    pub(crate) devices: Vec<Node>,
    /// Those that the second stage enters itself.
    pub(crate) joined: Vec<(Kind, OwnedFd)>,
    pub(crate) user_namespace: UserNamespace,
    pub(crate) cgroups: Cgroups,
    pub(crate) stdio: Stdio,
    pub(crate) seccomp: SeccompFilter<'a>,
}

/// What the second stage of an exec'd process needs. None of it is the host's.
pub(crate) struct Exec<'a> {
    pub(crate) process: ProcessPlan,
    pub(crate) user_namespace: UserNamespace,
    pub(crate) stdio: Stdio,
    pub(crate) seccomp: SeccompFilter<'a>,
}

/// Whether a process has a user namespace other than the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    Callers,
    Own,
}

/// The first stage of a container.
pub(crate) fn start(
    plan: ContainerPlan<'_>,
    reporter: &Reporter,
    child: &Child,
) -> Result<Infallible, StartError> {
    let witness = child.witness();
    let spec = begin(&plan, reporter, child)?;
    let mut init = gather(plan, &spec, reporter, witness)?;
    if is_exposed(&init) {
        init.cgroups.cut_off()?;
        stage_two::enter_early(&mut init, witness)?;
    }
    enter_pids(&init.container.namespaces, &init.joined, witness)?;
    let born_in = init.cgroups.unified_dir();
    let options = Spawn {
        parent: Parent::Grandparent,
        cgroup: born_in.as_ref().map(AsFd::as_fd),
        ..Spawn::default()
    };
    spawn_second(&options, reporter, child, |child| {
        stage_two::start(init, reporter, child.witness())
    })
}

/// Both stages of a container whose process was born in its pid namespace and its cgroup of version 2.
pub(crate) fn start_alone(
    plan: ContainerPlan<'_>,
    reporter: &Reporter,
    child: &Child,
) -> Result<Infallible, StartError> {
    let spec = begin(&plan, reporter, child)?;
    let init = gather(plan, &spec, reporter, child.witness())?;
    stage_two::start(init, reporter, child.witness())
}

/// Gives the spec to who never returns, so that nobody spends time on freeing it.
fn begin(plan: &ContainerPlan<'_>, reporter: &Reporter, child: &Child) -> Result<Spec, StartError> {
    memory::prefer_large_steps();
    isolate(child, &kept(reporter, &plan.stdio, plan.borrowed()))?;
    load(plan.bundle)
}

/// Gathers what comes from the host, and enters the user namespace, which is to own what is made from then on.
fn gather<'a>(
    plan: ContainerPlan<'a>,
    spec: &Spec,
    reporter: &Reporter,
    witness: &SingleThreaded,
) -> Result<Init<'a>, StartError> {
    let container = Container::from_spec(spec)?;
    if plan.alone {
        require_alone(&container)?;
    }
    // Before anything is entered: what attends to the hooks stays where the caller is.
    let hooks = hooks::prepare(&plan, spec, &container, reporter, witness)?;
    let users = users::namespace(&container, witness)?;
    let joined = open_joined(&container.namespaces)?;
    keep_hosts_sysctls(&container, &joined)?;
    let cgroups = match plan.alone {
        true => Cgroups::open_tasks(plan.cgroup_dirs)?,
        false => Cgroups::open(plan.cgroup_dirs)?,
    };
    let users_fd = users.as_ref().map(AsFd::as_fd);
    let mounts = sources::open(&plan, &container, users_fd, witness)?;
    let devices = devices::open(&container, users_fd.is_some())?;
    // After what is cloned: this may leave the host's mount namespace for a private copy.
    let root = rootfs::make(&plan, &container, users_fd, witness)?;
    own_pipes(&plan.stdio, container.process.uid, &container.id_maps)?;
    limits::prepare(&container.process)?;
    join_keyring(&container.process)?;
    enter_users(users_fd, witness)?;
    Ok(Init {
        // Hooks see the host's files, and the kernel makes a procfs for a user namespace only in sight of one.
        mounts_from: plan
            .mounts_from
            .filter(|_| users.is_none() && hooks.is_none()),
        container,
        hooks,
        root,
        entered: false,
        mounts,
        devices,
        joined,
        user_namespace: match users {
            Some(_) => UserNamespace::Own,
            None => UserNamespace::Callers,
        },
        cgroups,
        stdio: plan.stdio,
        seccomp: plan.seccomp,
    })
}

/// Whether processes of others are in sight of the second stage from its first instruction. Who is root of
/// another user namespace cannot trace it; hooks see the host's files.
fn is_exposed(init: &Init<'_>) -> bool {
    joins(&init.joined, Kind::Pid)
        && init.user_namespace == UserNamespace::Callers
        && init.hooks.is_none()
}

fn require_alone(container: &Container) -> Result<(), StartError> {
    let namespaces = &container.namespaces;
    let own_pids = namespaces.new.contains(&Kind::Pid) && !namespaces.has(Kind::User);
    match own_pids && container.hooks.is_empty() {
        true => Ok(()),
        false => Err(StartError::invalid(
            "a process that is born in its pid namespace needs a new one in the spec, no user namespace and \
             no hooks",
        )),
    }
}

/// The first stage of an exec'd process, which was born in the container's cgroup of version 2.
///
/// A process is in sight of those in the container from its first instruction, and what one of them may
/// trace (`CAP_SYS_PTRACE`) it can have all of: its directories, its files, its memory. So this one, whom
/// nobody there sees, enters everything, and what the second stage inherits is the container's.
pub(crate) fn exec(
    plan: ExecPlan<'_>,
    reporter: &Reporter,
    child: &Child,
) -> Result<Infallible, StartError> {
    let witness = child.witness();
    isolate(child, &kept(reporter, &plan.stdio, [plan.init_pidfd]))?;
    let process = ProcessPlan::from_spec(plan.process, None)?;
    let user_namespace = user_namespace_of(plan.init, plan.init_pidfd)?;
    let maps = match user_namespace {
        UserNamespace::Own => users::maps_of(plan.init)?,
        UserNamespace::Callers => IdMaps::default(),
    };
    own_pipes(&plan.stdio, process.uid, &maps)?;
    limits::prepare(&process)?;
    join_keyring(&process)?;
    if process.is_labelled() {
        labels::apply(&HostProc::open()?.process, &process)?;
    }
    // From outside of the container's cgroup namespace: from inside, where this process comes from
    // does not exist, and nothing can be moved from there.
    Cgroups::open_tasks(plan.cgroup_dirs)?.join()?;
    enter_namespaces_of(plan.init_pidfd, user_namespace, witness)?;
    let exec = Exec {
        process,
        user_namespace,
        stdio: plan.stdio,
        seccomp: plan.seccomp,
    };
    let options = Spawn {
        parent: Parent::Grandparent,
        ..Spawn::default()
    };
    spawn_second(&options, reporter, child, |child| {
        stage_two::exec(exec, reporter, child.witness())
    })
}

/// Those that are the caller's are entered anew; of the user namespace the kernel would refuse it.
fn enter_namespaces_of(
    init: BorrowedFd<'_>,
    user_namespace: UserNamespace,
    witness: &SingleThreaded,
) -> Result<(), StartError> {
    let mut kinds = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS;
    if user_namespace == UserNamespace::Own {
        kinds |= CloneFlags::CLONE_NEWUSER;
    }
    namespace::setns(init, kinds, witness).step("enter the container's namespaces", "")
}

pub(crate) fn kept<'a>(
    reporter: &'a Reporter,
    stdio: &'a Stdio,
    others: impl IntoIterator<Item = BorrowedFd<'a>>,
) -> Vec<BorrowedFd<'a>> {
    let mut kept = vec![reporter.as_fd()];
    if let Stdio::Pipes(pipes) = stdio {
        kept.extend(pipes.iter().map(AsFd::as_fd));
    }
    kept.extend(others);
    kept
}

/// First of all: while this works, it keeps no other container's pipe open, and nobody of the same
/// user can trace it or reach the caller's program through `/proc/<pid>/exe`.
pub(crate) fn isolate(child: &Child, kept: &[BorrowedFd<'_>]) -> Result<(), StartError> {
    child
        .close_all_but(kept)
        .step("close the caller's files", "")?;
    set_dumpable(false).step("become untraceable", "")
}

pub(crate) fn load(bundle: &Path) -> Result<Spec, StartError> {
    let path = bundle.join(SPEC_FILE);
    read_spec(File::open(&path).step("open", &path)?, &path)
}

/// `path` is for messages.
pub(crate) fn read_spec(file: File, path: &Path) -> Result<Spec, StartError> {
    let bytes = match read_open_bounded(file, SPEC_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
            return Err(StartError::invalid(format!(
                "{}: longer than {SPEC_BYTES_MAX} bytes",
                path.display()
            )));
        }
        read => read.step("read", path)?,
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| StartError::invalid(format!("{}: {error}", path.display())))
}

/// Opens the namespaces that are joined, all before any is entered: their paths are the host's.
fn open_joined(namespaces: &Namespaces) -> Result<Vec<(Kind, OwnedFd)>, StartError> {
    let joined = namespaces
        .joined
        .iter()
        .filter(|(kind, _)| *kind != Kind::User);
    joined
        .map(|(kind, path)| {
            let step = format!("open the {} namespace", kind.file_name());
            Ok((*kind, open_namespace(path, *kind).step(step, path)?))
        })
        .collect()
}

/// A namespace that is joined by path may still be the caller's, and that one's parameters the host's.
fn keep_hosts_sysctls(container: &Container, joined: &[(Kind, OwnedFd)]) -> Result<(), StartError> {
    for (kind, fd) in joined {
        let wanted = container
            .sysctls
            .iter()
            .find(|sysctl| sysctl.namespace == *kind);
        if let Some(sysctl) = wanted
            && identity(fd).step("look at a namespace", "")? == namespace_of("self", *kind)?
        {
            return Err(StartError::invalid(format!(
                "linux.sysctl: {} would be set in the host's {} namespace",
                sysctl.path.display(),
                kind.file_name()
            )));
        }
    }
    Ok(())
}

/// Pipes belong to who uses them, so that a process that is not root can open `/dev/stdout`. Other
/// files are left alone: they are not the container's alone.
pub(crate) fn own_pipes(stdio: &Stdio, uid: Uid, maps: &IdMaps) -> Result<(), StartError> {
    let Stdio::Pipes(pipes) = stdio else {
        return Ok(());
    };
    let outside = match maps.is_empty() {
        true => uid,
        false => Uid::from_raw(maps.outside_uid(uid.as_raw()).ok_or_else(|| {
            StartError::invalid(format!("process.user.uid: {uid} is not mapped"))
        })?),
    };
    for pipe in pipes {
        let stat = fstat(pipe).step("look at a standard descriptor", "")?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let own = kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK;
        if own && stat.st_uid != outside.as_raw() {
            fchown(pipe, Some(outside), None).step("change the owner of a pipe", "")?;
        }
    }
    Ok(())
}

/// The caller's session keyring is not for containers. That of a container has the label of its
/// processes; the execution resets what keys are labelled with.
fn join_keyring(process: &ProcessPlan) -> Result<(), StartError> {
    if let Some(label) = &process.selinux_label {
        let path = Path::new("/proc/self/attr/keycreate");
        match std::fs::write(path, label) {
            // Without SELinux the label itself is refused, with a better reason.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            done => done.step(format!("write {label:?} to"), path)?,
        }
    }
    match join_new_session_keyring() {
        // A kernel without keyrings has none to keep apart.
        Err(Errno::ENOSYS) => Ok(()),
        done => done.step("make a session keyring", ""),
    }
}

fn joins(joined: &[(Kind, OwnedFd)], kind: Kind) -> bool {
    joined.iter().any(|(joined, _)| *joined == kind)
}

/// It must own what is made from here on.
fn enter_users(users: Option<BorrowedFd<'_>>, witness: &SingleThreaded) -> Result<(), StartError> {
    let Some(users) = users else {
        return Ok(());
    };
    namespace::setns(users, Kind::User.flag(), witness).step("enter the user namespace", "")
}

/// A pid namespace is that of children only.
fn enter_pids(
    namespaces: &Namespaces,
    joined: &[(Kind, OwnedFd)],
    witness: &SingleThreaded,
) -> Result<(), StartError> {
    if let Some((kind, pids)) = joined.iter().find(|(kind, _)| *kind == Kind::Pid) {
        namespace::setns(pids, kind.flag(), witness).step("enter the pid namespace", "")?;
    }
    let new = namespaces.new_among(&[Kind::Pid]);
    namespace::unshare(new, witness).step("make a pid namespace", "")
}

fn user_namespace_of(init: Pid, pidfd: BorrowedFd<'_>) -> Result<UserNamespace, StartError> {
    let of_init = namespace_of(&init.to_string(), Kind::User)?;
    // As long as the process lives, its pid meant it all along.
    pidfd_send_signal(pidfd, 0).step("look at the container's first process", "")?;
    Ok(match of_init == namespace_of("self", Kind::User)? {
        true => UserNamespace::Callers,
        false => UserNamespace::Own,
    })
}

fn namespace_of(process: &str, kind: Kind) -> Result<Identity, StartError> {
    let step = "look at a namespace of process";
    identity_at(process, kind).step(step, process)
}

/// The end of the first stage.
fn spawn_second(
    options: &Spawn<'_>,
    reporter: &Reporter,
    first: &Child,
    body: impl FnOnce(&Child) -> Result<Infallible, StartError>,
) -> Result<Infallible, StartError> {
    // What it holds is freed by neither stage.
    let body = ManuallyDrop::new(body);
    let spawned = process::spawn(options, first.witness(), |child| {
        let body = ManuallyDrop::into_inner(body);
        conclude(body(child).map(|never| match never {}), reporter)
    })
    .step("spawn the process", "")?;
    // Nobody listens any more: the second stage finds out, too, unless it was ready before.
    if reporter.spawned(&spawned).is_err() {
        process::kill(&spawned.pidfd);
    }
    first.end(0)
}
