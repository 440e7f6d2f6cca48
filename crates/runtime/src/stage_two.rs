//! The second stage: the process itself, from its first instruction to the execution of what was
//! asked for. The order of the steps is the point; each says why it comes where it does.

mod attach;
mod cgroup_mount;
mod confine;
mod devices;
mod execute;
mod file_systems;
mod hooks;
mod identity;
pub(crate) mod labels;
mod null;
mod root;
mod sysctl;
mod terminal;

pub(crate) use root::hide_from_host;

use crate::error::{Context, StartError};
use crate::plan::{SeccompFilter, Stdio};
use crate::report::Reporter;
use crate::spec::{Container, ProcessPlan};
use crate::stage_one::{Exec, Init, Prepared, UserNamespace};
use crisp_sys::namespace::{self, Kind};
use crisp_sys::path::mkdir_all_in_root;
use crisp_sys::process::SingleThreaded;
use crisp_sys::security::set_identity;
use file_systems::Ready;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, sethostname, setsid};
use root::Visit;
use std::convert::Infallible;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};

/// The second stage of a container.
pub(crate) fn start(
    mut init: Init<'_>,
    reporter: &Reporter,
    witness: &SingleThreaded,
) -> Result<Infallible, StartError> {
    umask(Mode::empty());
    // Before a cgroup namespace is made, whose root is the group that its maker is in.
    init.cgroups.join()?;
    setsid().step("start a session", "")?;
    let hooks = hooks::Hooks::new(init.hooks.as_ref())?;
    let mounts = mem::take(&mut init.mounts);
    let Inside {
        own_proc,
        mounts,
        visit,
    } = match init.entered {
        true => be_inside(&init.container, mounts, witness)?,
        false => enter(&init, mounts, &hooks, witness)?,
    };
    let (container, root) = (&init.container, init.root);
    let late = attach::all(&root, &own_proc, mounts)?;
    devices::create(&root, &init.devices)?;
    make_working_directory(&root, &container.process)?;
    let terminal = match &init.stdio {
        Stdio::Pipes(_) => None,
        Stdio::Terminal(size) => {
            let terminal = terminal::open(&root, *size, &container.process)?;
            terminal::bind_console(&root, &terminal)?;
            Some(terminal)
        }
    };
    if let Some(visit) = visit {
        hooks.create(&visit, witness)?;
        visit.end(&root)?;
    }
    // After the last thing is made inside of it.
    attach::make_read_only(late)?;
    root::finish(&root, &container.root)?;
    confine::apply(&root, container)?;
    let null = null::own(&root, &init.stdio)?;
    labels::apply(&own_proc, &container.process)?;
    Last {
        process: &container.process,
        stdio: &init.stdio,
        null,
        terminal,
        root,
        seccomp: init.seccomp,
        hooks,
    }
    .execute(reporter, witness)
}

/// A process in its container's namespaces and root.
struct Inside {
    /// The process in a procfs that nothing in the container can put itself in the place of.
    own_proc: OwnedFd,
    mounts: Vec<Ready>,
    /// The host's files are in sight yet.
    visit: Option<Visit>,
}

fn enter(
    init: &Init<'_>,
    mounts: Vec<Prepared>,
    hooks: &hooks::Hooks<'_>,
    witness: &SingleThreaded,
) -> Result<Inside, StartError> {
    let container = &init.container;
    // While the host's procfs is the one at /proc.
    let host = HostProc::open()?;
    become_root_of(init.user_namespace)?;
    enter_namespaces(init, &KINDS, &host, witness)?;
    // In the container's namespaces, which they show, and before the host's own procfs and sysfs are
    // out of sight: the kernel wants to see these before it gives others to a user namespace.
    let mounts = file_systems::make(mounts, container)?;
    let visit = match hooks.root_place() {
        None => {
            enter_root(init)?;
            None
        }
        Some(place) => Some(root::visit(&init.root, place)?),
    };
    Ok(Inside {
        own_proc: host.process,
        mounts,
        visit,
    })
}

/// Does what [`enter`] does for a second stage that others see from its first instruction: all but what it
/// has to do itself, which is [`be_inside`].
pub(crate) fn enter_early(init: &mut Init<'_>, witness: &SingleThreaded) -> Result<(), StartError> {
    enter_namespaces(init, &KINDS[1..], &HostProc::open()?, witness)?;
    enter_root(init)?;
    init.entered = true;
    Ok(())
}

fn be_inside(
    container: &Container,
    mounts: Vec<Prepared>,
    witness: &SingleThreaded,
) -> Result<Inside, StartError> {
    make_namespaces(container, &KINDS[..1], witness)?;
    Ok(Inside {
        own_proc: file_systems::own_proc()?,
        mounts: file_systems::make(mounts, container)?,
        visit: None,
    })
}

fn enter_root(init: &Init<'_>) -> Result<(), StartError> {
    match init.mounts_from {
        Some(_) => root::cover(&init.root),
        None => root::enter(&init.root),
    }
}

/// The second stage of an exec'd process.
pub(crate) fn exec(
    exec: Exec<'_>,
    reporter: &Reporter,
    witness: &SingleThreaded,
) -> Result<Infallible, StartError> {
    umask(Mode::empty());
    become_root_of(exec.user_namespace)?;
    setsid().step("start a session", "")?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open("/", flags, Mode::empty()).step("open the container's root", "")?;
    let terminal = match &exec.stdio {
        Stdio::Pipes(_) => None,
        Stdio::Terminal(size) => Some(terminal::open(&root, *size, &exec.process)?),
    };
    Last {
        process: &exec.process,
        stdio: &exec.stdio,
        null: None,
        terminal,
        root,
        seccomp: exec.seccomp,
        hooks: hooks::Hooks::none(),
    }
    .execute(reporter, witness)
}

/// The host's procfs: nothing in a container can put itself in its place.
pub(crate) struct HostProc {
    /// `/proc/self`.
    pub(crate) process: OwnedFd,
    /// `/proc/sys`.
    sys: OwnedFd,
}

impl HostProc {
    pub(crate) fn open() -> Result<Self, StartError> {
        let open_verified = |path: &str| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let fd = open(path, flags, Mode::empty()).step("open", path)?;
            let fs_type = fstatfs(&fd).step("look at", path)?.filesystem_type();
            match fs_type == PROC_SUPER_MAGIC {
                true => Ok(fd),
                false => Err(Errno::EINVAL).step("find procfs at", path),
            }
        };
        Ok(Self {
            process: open_verified("/proc/self")?,
            sys: open_verified("/proc/sys")?,
        })
    }
}

/// In a user namespace the process has all capabilities, but no id: what it made would belong to
/// nobody.
fn become_root_of(users: UserNamespace) -> Result<(), StartError> {
    match users {
        UserNamespace::Callers => Ok(()),
        UserNamespace::Own => set_identity(Uid::from_raw(0), Gid::from_raw(0), &[])
            .step("become root of the user namespace", ""),
    }
}

/// Enters those that are joined and makes those of these kinds that are new, and sets what is kept in them.
fn enter_namespaces(
    init: &Init<'_>,
    kinds: &[Kind],
    host: &HostProc,
    witness: &SingleThreaded,
) -> Result<(), StartError> {
    let container = &init.container;
    for (kind, fd) in init.joined.iter().filter(|(kind, _)| *kind != Kind::Pid) {
        let step = format!("enter the {} namespace", kind.file_name());
        namespace::setns(fd, kind.flag(), witness).step(step, "")?;
    }
    if let Some(process) = init.mounts_from {
        let step = "enter a mount namespace with few mounts";
        namespace::setns(process, Kind::Mount.flag(), witness).step(step, "")?;
    }
    make_namespaces(container, kinds, witness)?;
    set_names(container)?;
    sysctl::apply(&host.sys, container)
}

/// What a container may have of its own besides users and pids. The first kind depends on the cgroup that its
/// maker is in.
const KINDS: [Kind; 5] = [
    Kind::Cgroup,
    Kind::Mount,
    Kind::Network,
    Kind::Ipc,
    Kind::Uts,
];

/// Makes those of these kinds that are to be new.
fn make_namespaces(
    container: &Container,
    kinds: &[Kind],
    witness: &SingleThreaded,
) -> Result<(), StartError> {
    let new = container.namespaces.new_among(kinds);
    namespace::unshare(new, witness).step("make namespaces", "")
}

fn set_names(container: &Container) -> Result<(), StartError> {
    if let Some(name) = &container.hostname {
        sethostname(name).step("set the host name", "")?;
    }
    if let Some(name) = &container.domainname {
        namespace::set_domain_name(name).step("set the domain name", "")?;
    }
    Ok(())
}

/// An image may name a working directory that it does not hold.
fn make_working_directory(root: &OwnedFd, process: &ProcessPlan) -> Result<(), StartError> {
    let path = &process.working_directory;
    mkdir_all_in_root(root, path, Mode::from_bits_truncate(0o755))
        .map(drop)
        .map_err(|errno| StartError::working_directory(path, errno))
}

/// All that is left when the process is where it belongs.
struct Last<'a> {
    process: &'a ProcessPlan,
    stdio: &'a Stdio,
    /// Takes the place of a standard input that is the host's.
    null: Option<OwnedFd>,
    terminal: Option<terminal::Terminal>,
    root: OwnedFd,
    seccomp: SeccompFilter<'a>,
    hooks: hooks::Hooks<'a>,
}

impl Last<'_> {
    fn execute(
        self,
        reporter: &Reporter,
        witness: &SingleThreaded,
    ) -> Result<Infallible, StartError> {
        let process = self.process;
        match (&self.terminal, self.stdio) {
            (Some(terminal), _) => terminal.install(process, reporter)?,
            (None, Stdio::Pipes(pipes)) => {
                let [input, output, error] = pipes.each_ref().map(AsFd::as_fd);
                let input = self.null.as_ref().map_or(input, AsFd::as_fd);
                execute::install([input, output, error])?;
            }
            (None, Stdio::Terminal(_)) => {}
        }
        // As root, who may look into any directory, if it may.
        let entered = execute::enter_working_directory(&self.root, process);
        identity::limit_resources(process)?;
        execute::forget_the_caller()?;
        umask(process.umask);
        // While a filter does not forbid to make processes; each takes on what the container's has.
        self.hooks.start(|| self.confine(|| Ok(())), witness)?;
        // From here on a filter may forbid to tell anything.
        reporter.ready().step("report", "")?;
        self.confine(|| match entered {
            Ok(()) => Ok(()),
            Err(_) => execute::enter_working_directory(&self.root, process),
        })?;
        let error = execute::search_and_execute(process);
        self.hooks.not_started();
        Err(error)
    }

    /// Takes on the filter, the ids and the capabilities; `as_user` is done in between.
    fn confine(&self, as_user: impl FnOnce() -> Result<(), StartError>) -> Result<(), StartError> {
        let no_new_privs = self.process.no_new_privs;
        // Without no_new_privs only the privileged may load a filter.
        if !no_new_privs {
            identity::filter(self.seccomp)?;
        }
        identity::assume(self.process)?;
        as_user()?;
        // With it anybody may, and the filter need not allow what came before.
        if no_new_privs {
            identity::filter(self.seccomp)?;
        }
        Ok(())
    }
}
