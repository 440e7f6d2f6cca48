//! Which process is the shim of a pod: for the case that its socket does not answer.
//!
//! The file `shim.pid` holds one line, `<pid> <start time>`: the start time as /proc/PID/stat counts
//! it, in clock ticks since boot, tells the process from a later one with the same number.

use crate::PodPaths;
use crisp_sys::stat::ProcessStat;
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How /proc shows the program of a shim: a sealed copy in memory. The second is that of older daemons.
const SHIM_PROGRAMS: [&str; 2] = ["/crisp-shim", "/memfd:crisp-shim (deleted)"];

/// One process, told apart from all others since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShimPid {
    pid: Pid,
    start_ticks: u64,
}

impl ShimPid {
    /// The calling process.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn current() -> io::Result<Self> {
        let pid = Pid::this();
        let start_ticks = start_ticks(pid)?;
        Ok(Self { pid, start_ticks })
    }

    /// The process that the runtime directory names; none when the shim came not so far as to write
    /// it, or the file is torn.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(paths: &PodPaths) -> io::Result<Option<Self>> {
        match fs::read_to_string(paths.shim_pid()) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every shim whose runtime directory is, or was, in `dir`, with the directory's name. It is known by its
    /// program and its command line. That of a daemon in a container, to which `dir` is another directory,
    /// is not among them.
    ///
    /// The kernel does not tell the command line of a process while its memory is locked: this may wait.
    #[must_use]
    pub fn find_all(dir: &Path) -> Vec<(String, Self)> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let shim = |process: fs::DirEntry| {
            let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?);
            let process = process.path();
            runtime_dir_in(dir, &process)?;
            let start_ticks = start_ticks(pid).ok()?;
            // Of the process that started then, should another have had the pid a moment ago.
            let name = runtime_dir_in(dir, &process)?;
            has_the_callers_world(&process).then_some((name, Self { pid, start_ticks }))
        };
        processes.filter_map(shim).collect()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Of writing it.
    pub fn write(&self, paths: &PodPaths) -> io::Result<()> {
        let temporary = paths.runtime_dir().join(".shim.pid");
        fs::write(&temporary, format!("{} {}\n", self.pid, self.start_ticks))?;
        fs::rename(&temporary, paths.shim_pid())
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether this very process is still there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(start_ticks(self.pid), Ok(ticks) if ticks == self.start_ticks)
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, ticks) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(Self {
            pid: Pid::from_raw(pid.parse().ok()?),
            start_ticks: ticks.parse().ok()?,
        })
    }
}

/// The name of a shim's runtime directory in `dir`, by what /proc shows of the shim.
fn runtime_dir_in(dir: &Path, process: &Path) -> Option<String> {
    let program = fs::read_link(process.join("exe")).ok()?;
    if !SHIM_PROGRAMS.contains(&program.to_str()?) {
        return None;
    }
    let command_line = fs::read(process.join("cmdline")).ok()?;
    let mut arguments = command_line.split(|byte| *byte == 0).skip(1);
    if arguments.next()? != b"shim" {
        return None;
    }
    let runtime_dir = Path::new(OsStr::from_bytes(arguments.next()?));
    let name = runtime_dir.strip_prefix(dir).ok()?.to_str()?;
    Some(name.to_owned())
}

/// Whether a process has the caller's pid namespace and root directory.
fn has_the_callers_world(process: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
    let root = |process: &Path| {
        let root = fs::metadata(process.join("root")).ok()?;
        Some((root.dev(), root.ino()))
    };
    let me = Path::new("/proc/self");
    namespace(process).is_some_and(|its| namespace(me) == Some(its))
        && root(process).is_some_and(|its| root(me) == Some(its))
}

/// Field 22 of proc_pid_stat(5).
fn start_ticks(pid: Pid) -> io::Result<u64> {
    let stat = ProcessStat::read(Path::new(&format!("/proc/{pid}")))?;
    stat.field(22)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_written_process_is_read_and_alive() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(dir.path());
        assert_eq!(ShimPid::read(&paths).unwrap(), None);
        let me = ShimPid::current().unwrap();
        me.write(&paths).unwrap();
        let read = ShimPid::read(&paths).unwrap().unwrap();
        assert_eq!(read, me);
        assert!(read.is_alive());
    }

    #[test]
    fn another_process_with_the_same_number_is_not_the_shim() {
        let mut other = ShimPid::current().unwrap();
        other.start_ticks += 1;
        assert!(!other.is_alive());
    }

    #[test]
    fn a_shim_is_known_by_its_program_and_its_arguments() {
        let process = tempfile::tempdir().unwrap();
        let runs = Path::new("/run/pods");
        let runtime_dir = |program: &str, arguments: &str| {
            let exe = process.path().join("exe");
            let _ = fs::remove_file(&exe);
            symlink(program, &exe).unwrap();
            fs::write(process.path().join("cmdline"), arguments).unwrap();
            runtime_dir_in(runs, process.path())
        };
        let arguments = "crisp-shim\0shim\0/run/pods/a\0";
        for shim in ["/crisp-shim", "/memfd:crisp-shim (deleted)"] {
            assert_eq!(runtime_dir(shim, arguments).as_deref(), Some("a"));
        }
        assert_eq!(runtime_dir("/bin/sh", arguments), None);
        for other in [
            "crisp-shim\0pause\0/run/pods/a\0",
            "crisp-shim\0shim\0/run/others/a\0",
            "crisp-shim\0shim",
            "",
        ] {
            assert_eq!(runtime_dir("/crisp-shim", other), None, "{other:?}");
        }
    }

    #[test]
    fn a_torn_file_names_nobody() {
        for torn in ["", "12", "12 34", "x 1\n", "\0\0\0\0"] {
            assert_eq!(ShimPid::parse(torn), None, "{torn:?}");
        }
    }
}
