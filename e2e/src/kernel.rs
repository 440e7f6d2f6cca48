//! Processes and cgroups as the kernel shows them, apart from anything the daemon says.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process of the host, by its id there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(pub i32);

impl Process {
    /// All processes of the host, threads not counted.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Self))
            .collect()
    }

    /// Those that run and have a word in their command line.
    #[must_use]
    pub fn with_argument(word: &str) -> Vec<Self> {
        let mut all = Self::all();
        all.retain(|process| process.runs() && process.command_line().contains(word));
        all
    }

    /// Those that have this process as their parent.
    #[must_use]
    pub fn children(self) -> Vec<Self> {
        let parent = self.0.to_string();
        Self::all()
            .into_iter()
            .filter(|process| process.status("PPid").as_ref() == Some(&parent))
            .collect()
    }

    /// Whether it runs: neither gone nor a zombie.
    #[must_use]
    pub fn runs(self) -> bool {
        self.status("State")
            .is_some_and(|state| !state.starts_with(['Z', 'X']))
    }

    /// Sends it SIGKILL; one that is gone already is what is wanted.
    pub fn kill(self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }

    /// A field of proc_pid_status(5), such as `CapEff`.
    #[must_use]
    pub fn status(self, field: &str) -> Option<String> {
        let status = fs::read_to_string(self.path("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// The arguments, joined by spaces; empty when the process is gone.
    #[must_use]
    pub fn command_line(self) -> String {
        let arguments = fs::read(self.path("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).replace('\0', " ")
    }

    /// How many files it has open.
    ///
    /// # Errors
    /// The process is gone.
    pub fn descriptors(self) -> Result<usize> {
        Ok(fs::read_dir(self.path("fd"))?.count())
    }

    /// How many threads it has.
    ///
    /// # Errors
    /// The process is gone.
    pub fn threads(self) -> Result<usize> {
        Ok(fs::read_dir(self.path("task"))?.count())
    }

    /// The memory that it holds.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_bytes(self) -> Result<u64> {
        let size = self.status("VmRSS").context("no VmRSS")?;
        let kib: u64 = size.trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// The process that started it, or took it over.
    ///
    /// # Errors
    /// The process is gone.
    pub fn parent(self) -> Result<Self> {
        Ok(Self(self.status("PPid").context("no PPid")?.parse()?))
    }

    /// Identifies one of its namespaces, such as `net`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn namespace(self, kind: &str) -> Result<PathBuf> {
        fs::read_link(self.path(&format!("ns/{kind}")))
            .with_context(|| format!("{kind} namespace of {self:?}"))
    }

    /// Its cgroup in the hierarchy of a controller, or in the one hierarchy of version 2.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cgroup(self, controller: &str) -> Result<Cgroup> {
        let memberships = fs::read_to_string(self.path("cgroup"))?;
        let root = Path::new("/sys/fs/cgroup");
        let dir = memberships.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            if controllers.is_empty() && cgroups_are_v2() {
                return Some(root.join(path));
            }
            controllers
                .split(',')
                .any(|name| name == controller)
                .then(|| root.join(controller).join(path))
        });
        Ok(Cgroup(dir.with_context(|| {
            format!("{self:?} is in no {controller} cgroup")
        })?))
    }

    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }
}

/// Whether cgroups are of version 2 alone.
#[must_use]
pub fn cgroups_are_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether it is systemd that a kubelet is to have make the cgroups of its pods.
#[must_use]
pub fn systemd_makes_cgroups() -> bool {
    cgroups_are_v2() && Path::new("/run/systemd/system").exists()
}

/// Where the hierarchies of cgroups are: the one of version 2, or all of version 1.
#[must_use]
pub(crate) fn cgroup_hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if cgroups_are_v2() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    // Controllers that share a hierarchy are symbolic links to it.
    entries
        .map(|entry| entry.path())
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect()
}

/// A directory of a cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// # Errors
    /// There is no such file; the message has its path.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        let content = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(content.trim().to_owned())
    }

    /// The value of one line `<key> <value>` of a file.
    ///
    /// # Errors
    /// There is no such file or line.
    pub fn read_key(&self, file: &str, key: &str) -> Result<u64> {
        let content = self.read(file)?;
        let value = content
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        Ok(value
            .with_context(|| format!("no {key} in {file}"))?
            .trim()
            .parse()?)
    }

    /// The processor time of all that ever ran in it.
    ///
    /// # Errors
    /// It is not in a hierarchy that counts this, or it is gone.
    pub fn cpu_usage(&self) -> Result<Duration> {
        if let Ok(usage_ns) = self.read("cpuacct.usage") {
            return Ok(Duration::from_nanos(usage_ns.parse()?));
        }
        Ok(Duration::from_micros(
            self.read_key("cpu.stat", "usage_usec")?,
        ))
    }

    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0.parent().unwrap_or(&self.0).to_owned())
    }
}

/// An extended attribute of a file.
///
/// # Errors
/// The file has none of that name.
pub fn xattr(path: &Path, name: &str) -> Result<Vec<u8>> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let value = crisp_sys::xattr::get(&file, &CString::new(name)?)?;
    value.with_context(|| format!("{} has no {name}", path.display()))
}
