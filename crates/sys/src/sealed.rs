//! Copies of programs in memory, so that what is executed cannot be changed by anybody: not by an
//! upgrade half done, and not by a container that reached the file (CVE-2019-5736).

use crate::mount::{Attributes, Change, FsContext, FsError, Recursion, change};
use nix::fcntl::{OFlag, openat, posix_fallocate};
use nix::sys::stat::{Mode, fchmod};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The kernel lets nobody look into a process whose program its user may not read (`dumpable` in
/// proc(5)): with this, a process that has given up root's privileges is closed from its execution on.
const EXECUTE_ONLY: Mode = Mode::from_bits_truncate(0o111);

/// A copy of a program, alone in a tmpfs that is mounted nowhere.
///
/// It is not a memfd, whose pages are as large as `shmem_enabled` says, which is small on most hosts. Those of a file
/// system of its own can be huge (kernel, admin-guide/mm/transhuge.rst), and a page fault that maps a piece of
/// one costs a fraction of what it costs to map as many small ones.
#[derive(Debug)]
pub struct ProgramCopy {
    mount: OwnedFd,
    name: String,
    file: File,
}

impl ProgramCopy {
    /// Copies `source` from where it is. `name` is what /proc shows of the copy, as a file in the root directory.
    ///
    /// # Errors
    /// Of mounting a tmpfs, of reading `source`, or that memory is short.
    pub fn new(name: &str, source: &mut File) -> io::Result<Self> {
        let mount = mount_tmpfs().map_err(io::Error::other)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&mount, Path::new(name), flags, Mode::S_IRWXU)?);
        // At once: the kernel makes pages as large as what is asked for.
        posix_fallocate(&file, 0, source.metadata()?.len().cast_signed())?;
        io::copy(source, &mut file)?;
        fchmod(&file, EXECUTE_ONLY)?;
        Ok(Self {
            mount,
            name: name.to_owned(),
            file,
        })
    }

    /// From now on neither content nor attributes change.
    ///
    /// # Errors
    /// `EBUSY` when a descriptor of the copy can still be written by.
    pub fn seal(self) -> io::Result<SealedProgram> {
        drop(self.file);
        let read_only = Change {
            set: Attributes::READ_ONLY,
            ..Change::default()
        };
        change(&self.mount, &read_only, Recursion::This)?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(SealedProgram {
            file: openat(&self.mount, Path::new(&self.name), flags, Mode::empty())?,
            _mount: self.mount,
        })
    }
}

impl AsFd for ProgramCopy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A program that can be executed, and not be changed.
#[derive(Debug)]
pub struct SealedProgram {
    file: OwnedFd,
    /// As long as it is open, the kernel counts who uses the mount for each cpu; without, in one place under a lock.
    _mount: OwnedFd,
}

impl AsFd for SealedProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn mount_tmpfs() -> Result<OwnedFd, FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("source", "crisp")?;
    context.set_string("mode", "700")?;
    // A kernel without huge pages refuses the option and needs none.
    let _ = context.set_string("huge", "always");
    context.mount(Attributes::NO_SUID | Attributes::NO_DEV)
}
