//! From a fork of the shim to the pause process: what the child does before it executes.
//!
//! It tells the shim how it goes over a SEQPACKET socket: `R`, with the pod's /dev/shm if that is a mount
//! that can be cloned detached, when only the execution is left, for which nobody waits: why that fails is
//! heard by nobody; `E` and a text when it gives up before; the end of the socket when it died.

use crate::cgroup;
use crate::shm;
use crate::sysctl::Sysctl;
use crisp_sys::cgroup::CommonAncestor;
use crisp_sys::mount::{self, Attributes, Change, FsContext, FsError, Propagation, Recursion};
use crisp_sys::namespace::{Kind, setns};
use crisp_sys::process::{Child, StdioNumber, install_stdio};
use crisp_sys::security;
use crisp_sys::socket::{Wait, receive, send};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chdir, execveat, fchdir, mkdir, pivot_root, sethostname, setsid};
use std::error::Error;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the shim hears.
pub(crate) const READY: u8 = b'R';
pub(crate) const FAILED: u8 = b'E';

/// The longest report.
pub(crate) const MAX_REPORT_BYTES: usize = 1024;

/// What is to be set up, checked already.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) user_namespace: bool,
    /// Empty: it stays.
    pub(crate) hostname: String,
    pub(crate) sysctls: Vec<Sysctl>,
    /// Zero: no /dev/shm.
    pub(crate) shm_size_bytes: u64,
    /// Those that it is not born in.
    pub(crate) cgroup_dirs: Vec<PathBuf>,
    /// SELinux contexts of the pause process and of /dev/shm; empty: none is asked for.
    pub(crate) process_label: String,
    pub(crate) file_label: String,
    /// A mount namespace with nothing but an empty root; none: it makes one of its own, in which it is
    /// already.
    pub(crate) lent_mounts: Option<OwnedFd>,
}

/// A step that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
struct StepError {
    step: String,
    source: Box<dyn Error>,
}

/// Adds the step to an error.
trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, StepError>;
}

impl<T, E: Error + 'static> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, StepError> {
        self.map_err(|source| StepError {
            step: step.into(),
            source: Box::new(source),
        })
    }
}

impl Setup {
    /// Runs in the child, which is in its new namespaces already. `parent` is the socket to the shim,
    /// `executable` the shim's own program. Returns only on failure.
    pub(crate) fn run(&self, parent: BorrowedFd<'_>, executable: &OwnedFd, child: &Child) -> u8 {
        if let Err(error) = self.try_run(parent, executable, child) {
            let mut report = vec![FAILED];
            report.extend(error.to_string().bytes().take(MAX_REPORT_BYTES - 1));
            let _ = send(parent, &report, &[], Wait::Block);
        }
        1
    }

    fn try_run(
        &self,
        parent: BorrowedFd<'_>,
        executable: &OwnedFd,
        child: &Child,
    ) -> Result<(), StepError> {
        let mut kept = vec![parent, executable.as_fd()];
        kept.extend(self.lent_mounts.iter().map(AsFd::as_fd));
        child.close_all_but(&kept).step("close files")?;
        if self.user_namespace {
            wait_for_id_maps(parent)?;
        }
        self.join_cgroups()?;
        security::set_identity(Uid::from_raw(0), Gid::from_raw(0), &[]).step("become root")?;
        self.set_hostname()?;
        self.set_sysctls()?;
        let shm = self.make_shm()?;
        self.set_label()?;
        let (detached, attached) = match mount::clones_detached() {
            true => (shm, None),
            false => (None, shm),
        };
        match &self.lent_mounts {
            Some(mounts) => setns(mounts, Kind::Mount.flag(), child.witness())
                .step("enter the mount namespace of other pods")?,
            None => enter_empty_root(attached.as_ref())?,
        }
        detach_from_shim()?;
        // Containers may come before the execution: they meet a process without privileges, that nobody
        // traces. The execution undoes the latter, and pause does it again.
        give_up_privileges()?;
        security::set_dumpable(false).step("become untraceable")?;
        // The report fails when the shim died before its death was bound to ours.
        let fds: Vec<BorrowedFd<'_>> = detached.iter().map(AsFd::as_fd).collect();
        send(parent, &[READY], &fds, Wait::Block).step("report to the shim")?;
        let arguments = [c"crisp-shim", c"pause"];
        let environment: [&CStr; 0] = [];
        let executed = execveat(
            executable,
            c"",
            &arguments,
            &environment,
            AtFlags::AT_EMPTY_PATH,
        );
        executed.map(drop).step("execute the shim's program")
    }

    fn join_cgroups(&self) -> Result<(), StepError> {
        let ancestor = CommonAncestor::of(&self.cgroup_dirs);
        for dir in &self.cgroup_dirs {
            cgroup::join(&ancestor, dir).step(format!("join cgroup {}", dir.display()))?;
        }
        Ok(())
    }

    fn set_hostname(&self) -> Result<(), StepError> {
        if self.hostname.is_empty() {
            return Ok(());
        }
        sethostname(&self.hostname).step("set the hostname")
    }

    fn set_sysctls(&self) -> Result<(), StepError> {
        for Sysctl { path, value } in &self.sysctls {
            fs::write(path, value).step(format!("write {value:?} to {}", path.display()))?;
        }
        Ok(())
    }

    /// For the execution (proc_pid_attr(5)).
    fn set_label(&self) -> Result<(), StepError> {
        if self.process_label.is_empty() {
            return Ok(());
        }
        fs::write("/proc/self/attr/exec", &self.process_label)
            .step(format!("set SELinux label {:?}", self.process_label))
    }

    /// Owned by the pod's user namespace, because it is made inside.
    fn make_shm(&self) -> Result<Option<OwnedFd>, StepError> {
        if self.shm_size_bytes == 0 {
            return Ok(None);
        }
        let make = || {
            let tmpfs = FsContext::open("tmpfs")?;
            tmpfs.set_string("size", self.shm_size_bytes.to_string())?;
            tmpfs.set_string("mode", "1777")?;
            tmpfs.set_string("source", "shm")?;
            if !self.file_label.is_empty() {
                tmpfs.set_string("context", &self.file_label)?;
            }
            tmpfs.mount(Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC)
        };
        make().step("make /dev/shm").map(Some)
    }
}

/// The shim sends a byte; the end of the socket means that it could not write the maps.
fn wait_for_id_maps(parent: BorrowedFd<'_>) -> Result<(), StepError> {
    let received = receive(parent, &mut [0], Wait::Block).step("wait for the id maps")?;
    match received.bytes {
        0 => Err(Errno::ECANCELED).step("wait for the id maps"),
        _ => Ok(()),
    }
}

/// Replaces the root by an empty read-only file system, so that /proc/1/root shows the pod nothing but
/// its own /dev/shm, if that is to be attached. The old root ends up stacked upon the new one, where it is
/// unmounted.
fn enter_empty_root(shm: Option<&OwnedFd>) -> Result<(), StepError> {
    let root = open(
        "/",
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .step("open the root")?;
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    mount::change(&root, &private, Recursion::WholeTree).step("make mounts private")?;
    // Before something is attached to it, it cannot be read-only.
    let access = shm.map_or(Attributes::READ_ONLY, |_| Attributes::NONE);
    let empty = make_empty_fs(access).step("make an empty root")?;
    mount::attach_at(&empty, Path::new("/")).step("attach the empty root")?;
    fchdir(&empty).step("enter the empty root")?;
    pivot_root(".", ".").step("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).step("unmount the host's root")?;
    chdir("/").step("enter the empty root")?;
    let Some(shm) = shm else {
        return Ok(());
    };
    let path = Path::new(shm::PATH_OF_PAUSE);
    mkdir(path, Mode::S_IRWXU).step("make a directory for /dev/shm")?;
    mount::attach_at(shm, path).step("attach /dev/shm")?;
    let read_only = Change {
        set: Attributes::READ_ONLY,
        ..Change::default()
    };
    mount::change(&empty, &read_only, Recursion::This).step("make the empty root read-only")
}

fn make_empty_fs(access: Attributes) -> Result<OwnedFd, FsError> {
    let tmpfs = FsContext::open("tmpfs")?;
    tmpfs.set_string("size", "4096")?;
    tmpfs.set_string("mode", "0555")?;
    tmpfs.mount(access | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC)
}

/// A session of its own, no way to the shim's log, and the shim's death as its own.
fn detach_from_shim() -> Result<(), StepError> {
    let null = StdioNumber::Input.as_fd();
    install_stdio(null, StdioNumber::Output).step("close standard output")?;
    install_stdio(null, StdioNumber::Error).step("close standard error")?;
    setsid().step("setsid")?;
    set_pdeathsig(Signal::SIGKILL).step("prctl(PR_SET_PDEATHSIG)")
}

/// With an empty bounding set, the execution gives root nothing back.
fn give_up_privileges() -> Result<(), StepError> {
    security::limit_bounding(security::Capabilities::default()).step("empty the bounding set")?;
    security::clear_ambient().step("empty the ambient set")?;
    security::set_no_new_privs().step("prctl(PR_SET_NO_NEW_PRIVS)")?;
    security::set_capabilities(&security::CapabilitySets::default()).step("drop capabilities")
}
