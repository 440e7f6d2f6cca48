//! clone3, pidfds, waiting, and the witness that a process has one thread.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::ffi::{c_int, c_long, c_uint};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Proof that this process had one thread when it was asked.
///
/// Forking copies only the calling thread, and setns(2) and unshare(2) change it alone, so these are
/// safe only where it is the whole process. The witness cannot leave the thread that obtained it;
/// whoever holds it starts no other.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Asks the kernel, which refuses to a process with more threads what changes nothing for one (unshare(2),
    /// `CLONE_THREAD`).
    ///
    /// # Errors
    /// `EBUSY` when there is more than one thread.
    pub fn verify() -> nix::Result<Self> {
        match unshare(CloneFlags::CLONE_THREAD) {
            Ok(()) => Ok(Self(PhantomData)),
            Err(Errno::EINVAL) => Err(Errno::EBUSY),
            Err(errno) => Err(errno),
        }
    }
}

/// How [`spawn`] makes a process.
#[derive(Debug, Default)]
pub struct Spawn<'a> {
    /// New namespaces: only the `CLONE_NEW*` bits count.
    pub namespaces: Option<CloneFlags>,
    /// Whose child it becomes.
    pub parent: Parent,
    /// A cgroup v2 directory to be born in, which spares the migration.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// The parent of a spawned process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The caller, which gets SIGCHLD when it ends.
    #[default]
    Caller,
    /// The caller's own parent, who gets the signal that the caller's end would send.
    Grandparent,
}

/// A process just spawned.
#[derive(Debug)]
pub struct Spawned {
    /// In the pid namespace of the caller.
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// All bits of clone3(2) that make a namespace.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWCGROUP)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUSER)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET);

/// The lowest descriptor that is not a standard one.
const FIRST_AFTER_STDIO: c_uint = 3;

/// linux/sched.h; libc declares it with a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The child's status when `body` panics: nobody's exit code, so that it shows.
const PANICKED: c_int = 254;

/// Forks, with clone3(2): `body` runs in the child, and its result is the child's exit status. The
/// child never returns to the caller's code and runs none of its destructors.
///
/// # Errors
/// Those of clone3(2), such as `EAGAIN` at a limit on processes.
pub fn spawn(
    options: &Spawn<'_>,
    _witness: &SingleThreaded,
    body: impl FnOnce(&Child) -> u8,
) -> nix::Result<Spawned> {
    let mut pidfd: RawFd = -1;
    let args = clone_args(options, &mut pidfd);
    // SAFETY: without CLONE_VM the child has its own copy of memory, and with no stack given it goes
    // on with the copy of this one. `args` is a valid clone_args of the size passed, and its pidfd
    // points to a live c_int. The witness says that no other thread held a lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match Errno::result(pid)? {
        0 => {
            let exit = ExitOnDrop(PANICKED);
            let status = body(&Child(SingleThreaded(PhantomData)));
            std::mem::forget(exit);
            exit_now(c_int::from(status))
        }
        pid => Ok(Spawned {
            pid: Pid::from_raw(c_int::try_from(pid).expect("the kernel's pids fit in an int")),
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor here.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

fn clone_args(options: &Spawn<'_>, pidfd: &mut RawFd) -> libc::clone_args {
    // SAFETY: clone_args is made of integers, for which zero is valid and means "unused".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let namespaces = options.namespaces.unwrap_or(CloneFlags::empty()) & NAMESPACES;
    args.flags = u64::from(namespaces.bits().cast_unsigned()) | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(pidfd) as u64;
    match options.parent {
        Parent::Caller => args.exit_signal = libc::SIGCHLD as u64,
        Parent::Grandparent => args.flags |= libc::CLONE_PARENT as u64,
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    args
}

/// What the body given to [`spawn`] can do that its parent could not.
#[derive(Debug)]
pub struct Child(SingleThreaded);

impl Child {
    /// A forked child has one thread.
    #[must_use]
    pub fn witness(&self) -> &SingleThreaded {
        &self.0
    }

    /// Closes all descriptors but the standard ones and these, so that a child holds nobody's pipe
    /// open while it works. `kept` names all that the body goes on to use; the owners of others are
    /// the parent's and are never used or dropped here. The standard ones stay, lest something else
    /// get their numbers.
    ///
    /// # Errors
    /// None that Linux reports.
    pub fn close_all_but(&self, kept: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let mut kept: Vec<c_uint> = kept
            .iter()
            .map(|fd| fd.as_raw_fd().cast_unsigned())
            .collect();
        kept.sort_unstable();
        let mut next = FIRST_AFTER_STDIO;
        for fd in kept {
            if fd > next {
                close_range(next, fd - 1, 0)?;
            }
            next = next.max(fd + 1);
        }
        close_range(next, c_uint::MAX, 0)
    }

    /// Ends the child without a word: nothing that it holds is freed, which would have the kernel copy every page
    /// that it shares with children of its own.
    pub fn end(&self, status: u8) -> ! {
        exit_now(c_int::from(status))
    }
}

/// Ends the process when it is unwound: a panic must not reach frames that belong to the parent.
struct ExitOnDrop(c_int);

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit_now(self.0)
    }
}

/// _exit(2): no destructor, no atexit handler, no flushing of buffers that the parent owns too.
fn exit_now(status: c_int) -> ! {
    // SAFETY: _exit ends the process; nothing of it is used after.
    unsafe { libc::_exit(status) }
}

/// pidfd_open(2). Race-free for a child that is not yet reaped.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    owned_fd(fd)
}

/// pidfd_send_signal(2).
///
/// # Errors
/// `ESRCH` when the process has been reaped.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: c_int) -> nix::Result<()> {
    // SAFETY: a null siginfo_t asks for what kill(2) would send.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Exited(i32),
    /// By a signal's number: real-time signals have no [`Signal`].
    Killed(i32),
}

/// Reaps one child that has ended: that of `pidfd`, or any without. Never blocks; none: no such
/// child has ended.
///
/// # Errors
/// `ECHILD` when there is no such child at all.
pub fn try_reap(pidfd: Option<BorrowedFd<'_>>) -> nix::Result<Option<(Pid, ExitStatus)>> {
    let (kind, id) = match pidfd {
        Some(fd) => (libc::P_PIDFD, fd.as_raw_fd().cast_unsigned()),
        None => (libc::P_ALL, 0),
    };
    // SAFETY: siginfo_t is plain data, for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a live siginfo_t.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG) };
    Errno::result(result)?;
    // SAFETY: waitid filled in the fields of SIGCHLD, or left the zeroes in place.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Exited(status),
        _ => ExitStatus::Killed(status),
    };
    Ok(Some((Pid::from_raw(pid), status)))
}

/// Makes this process the parent of orphans among its descendants.
///
/// # Errors
/// None that a booted Linux reports.
pub fn set_child_subreaper() -> nix::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes an integer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_long, 0, 0, 0) })
        .map(drop)
}

/// Marks every descriptor but the standard ones close-on-exec.
///
/// # Errors
/// None that Linux reports.
pub fn close_on_exec() -> nix::Result<()> {
    close_range(FIRST_AFTER_STDIO, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> nix::Result<()> {
    // SAFETY: close_range takes integers. That owners of closed descriptors are not used again is
    // what the callers' contracts say.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Gives every signal its default action and unblocks all: execve(2) would keep what is ignored or
/// blocked.
pub fn reset_signals() {
    // As the kernel has it: libc would refuse the two signals that it keeps for itself, which may be
    // ignored like any other.
    const WORDS: usize = 4;
    const MASK_BYTES: usize = 8;
    let default_action = [0u64; WORDS];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: zeroes are the kernel's sigaction for SIG_DFL without flags, which installs no
        // handler; it fits in four words. SIGKILL and SIGSTOP are refused and never ignored.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default_action.as_ptr(),
                std::ptr::null::<c_long>(),
                MASK_BYTES,
            )
        };
    }
    // SAFETY: an empty set is a valid sigset_t for sigprocmask, and no old one is asked for.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Makes `fd` one of the standard descriptors, which stays open across execve(2).
///
/// # Errors
/// Those of dup2(2).
pub fn install_stdio(fd: BorrowedFd<'_>, number: StdioNumber) -> nix::Result<()> {
    let number = number as RawFd;
    let result = if fd.as_raw_fd() == number {
        // dup2 onto itself would leave close-on-exec set.
        // SAFETY: F_SETFD on a borrowed descriptor changes its flags only.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        // SAFETY: the standard descriptors are nobody's OwnedFd.
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    Errno::result(result).map(drop)
}

/// A standard descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdioNumber {
    Input = 0,
    Output = 1,
    Error = 2,
}

impl AsFd for StdioNumber {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the standard descriptors are nobody's OwnedFd, and stay open.
        unsafe { BorrowedFd::borrow_raw(*self as RawFd) }
    }
}

/// SIGKILL by pidfd; a process that is gone already is fine.
pub fn kill(pidfd: impl AsFd) {
    // The only other error is EPERM, which no descendant of a privileged process gives.
    let _ = pidfd_send_signal(pidfd, Signal::SIGKILL as c_int);
}

/// A descriptor from a system call's result.
pub(crate) fn owned_fd(result: c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = RawFd::try_from(fd).expect("the kernel's descriptors fit in an int");
    // SAFETY: the system call succeeded and returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_gets_no_witness() {
        // The test harness itself is a second thread.
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(SingleThreaded::verify().unwrap_err(), Errno::EBUSY));
        });
    }

    #[test]
    fn a_pidfd_of_a_reaped_child_has_no_process() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let pidfd = pidfd_open(pid).unwrap();
        child.wait().unwrap();
        assert_eq!(pidfd_send_signal(&pidfd, 0), Err(Errno::ESRCH));
        kill(&pidfd);
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "try_reap is what waits for it")]
    fn a_child_is_reaped_once_with_its_signal() {
        let child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let pidfd = pidfd_open(pid).unwrap();
        assert_eq!(try_reap(Some(pidfd.as_fd())), Ok(None));
        kill(&pidfd);
        let ended = loop {
            if let Some(ended) = try_reap(Some(pidfd.as_fd())).unwrap() {
                break ended;
            }
            std::thread::yield_now();
        };
        assert_eq!(ended, (pid, ExitStatus::Killed(libc::SIGKILL)));
        assert_eq!(try_reap(Some(pidfd.as_fd())), Err(Errno::ECHILD));
    }
}
