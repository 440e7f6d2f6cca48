//! New instances of file systems, as detached mounts.

use crate::error::{Context, StartError};
use crate::spec::{Container, FsOption, MountPlan, Source};
use crate::stage_one::{CgroupDir, Opened, Prepared};
use crisp_sys::mount::{Attributes, Change, FsContext, FsError, change};
use crisp_sys::namespace::Kind;
use crisp_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::os::fd::OwnedFd;

/// A mount that is complete but for its place.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) plan: MountPlan,
    pub(super) mount: OwnedFd,
    /// What is attached inside of it, if it is the tmpfs that holds hierarchies.
    pub(super) cgroups: Option<Vec<CgroupDir>>,
}

/// Makes all that the first stage could not.
pub(super) fn make(mounts: Vec<Prepared>, container: &Container) -> Result<Vec<Ready>, StartError> {
    mounts
        .into_iter()
        .map(|Prepared { plan, opened }| {
            let (mount, cgroups) = match opened {
                Opened::Mount(mount) => (mount, None),
                Opened::FileSystem => (make_one(&plan, container)?, None),
                Opened::CgroupDirs(dirs) => (cgroup_tmpfs(&plan, container)?, Some(dirs)),
            };
            Ok(Ready {
                plan,
                mount,
                cgroups,
            })
        })
        .collect()
}

fn make_one(plan: &MountPlan, container: &Container) -> Result<OwnedFd, StartError> {
    let none = Vec::new();
    let (fs_type, source, data) = match &plan.source {
        Source::FileSystem {
            fs_type,
            source,
            data,
        } => (fs_type.as_str(), source.as_str(), data),
        // The first stage leaves this to us where there is version 2 only.
        Source::Cgroup => ("cgroup2", "cgroup", &none),
        Source::Bind { .. } | Source::Overlay { .. } => {
            unreachable!(
                "the first stage makes what comes from the host, such as {}",
                plan.target.display()
            )
        }
    };
    let label = container
        .mount_label
        .as_deref()
        .filter(|_| LABELLED.contains(&fs_type));
    let mount = new_mount(fs_type, source, data, label, initial_attributes(plan))
        .step("at", &plan.target)?;
    if fs_type == "mqueue" {
        label_queues(&mount, container).step("label the mount at", &plan.target)?;
    }
    for (further, recursion) in plan.options.further_changes() {
        let now = Change {
            set: further.set.without(deferred(plan)),
            ..further
        };
        change(&mount, &now, recursion).step("set the options of the mount at", &plan.target)?;
    }
    Ok(mount)
}

/// File systems that are the container's own, and whose files are given one SELinux label.
const LABELLED: [&str; 2] = ["tmpfs", "devpts"];

/// The message queues are those of the IPC namespace: whoever mounts them sees the same file system,
/// whose root alone can be labelled, and by nobody in a user namespace. The host's stay as they are.
fn label_queues(mount: &OwnedFd, container: &Container) -> nix::Result<()> {
    let Some(label) = &container.mount_label else {
        return Ok(());
    };
    if container.namespaces.has(Kind::User) || !container.namespaces.has(Kind::Ipc) {
        return Ok(());
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(mount, ".", flags, Mode::empty())?;
    match xattr::set(root, c"security.selinux", label.as_bytes()) {
        Err(Errno::ENOTSUP) => Ok(()),
        done => done,
    }
}

fn new_mount(
    fs_type: &str,
    source: &str,
    data: &[FsOption],
    label: Option<&str>,
    attributes: Attributes,
) -> Result<OwnedFd, FsError> {
    let context = FsContext::open(fs_type)?;
    if !source.is_empty() {
        context.set_string("source", source)?;
    }
    for option in data {
        match option {
            FsOption::Flag(name) => context.set_flag(name)?,
            FsOption::Value(name, value) => context.set_string(name, value)?,
        }
    }
    if let Some(label) = label {
        context.set_string("context", label)?;
    }
    context.mount(attributes)
}

fn initial_attributes(plan: &MountPlan) -> Attributes {
    plan.options.set.without(deferred(plan))
}

/// A tmpfs becomes read-only when all that belongs in it is there.
fn deferred(plan: &MountPlan) -> Attributes {
    match is_late(plan) {
        true => Attributes::READ_ONLY,
        false => Attributes::NONE,
    }
}

/// Whether a mount is made read-only after all others are attached.
pub(super) fn is_late(plan: &MountPlan) -> bool {
    let empty_at_first = match &plan.source {
        Source::FileSystem { fs_type, .. } => fs_type == "tmpfs",
        _ => false,
    };
    empty_at_first && plan.options.set.contains(Attributes::READ_ONLY)
}

/// The process in a procfs that shows nothing but the processes of its pid namespace.
pub(super) fn own_proc() -> Result<OwnedFd, StartError> {
    let make = || {
        let context = FsContext::open("proc")?;
        context.set_string("subset", "pid")?;
        context.mount(Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC)
    };
    let mount = make().step("for the process itself", "")?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(mount, "self", flags, Mode::empty()).step("open the process's own", "/proc")
}

/// Where the hierarchies of version 1 are put together. It is made read-only with them.
fn cgroup_tmpfs(plan: &MountPlan, container: &Container) -> Result<OwnedFd, StartError> {
    let mode = [FsOption::Value("mode".into(), "755".into())];
    let attributes = plan.options.set.without(Attributes::READ_ONLY);
    let label = container.mount_label.as_deref();
    new_mount("tmpfs", "tmpfs", &mode, label, attributes).step("at", &plan.target)
}
