//! Why a process did not start.

use crisp_sys::mount::FsError;
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a process did not start. Each variant reads as one line that names the path it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// What was asked for cannot be executed: the fault of whoever asked.
    #[error("{} {}: {reason}", reason.action(), path.display())]
    NotExecutable { path: PathBuf, reason: Reason },
    /// The spec contradicts itself, or asks for what this node or runtime does not have.
    #[error("{0}")]
    InvalidSpec(String),
    /// The kernel refused a step.
    #[error("{step}{}: {}", at(path), describe(*errno))]
    Io {
        step: String,
        /// Empty when the step is about no file.
        path: PathBuf,
        errno: Errno,
    },
    /// A hook of the spec failed, or took too long.
    #[error("hook {}: {reason}", path.display())]
    Hook { path: PathBuf, reason: String },
    /// A runtime with a command line refused, in its own words.
    #[error("{}: {message}", program.display())]
    Refused { program: PathBuf, message: String },
    /// A signal ended the process before it could execute, such as that of the OOM killer.
    #[error("the process was killed before it could execute")]
    Died,
}

/// Why something cannot be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NotFound,
    /// A name without a slash is in no directory of the environment's `PATH`.
    NotInPath,
    /// The file exists, but not the interpreter or dynamic linker that it names.
    NoInterpreter,
    PermissionDenied,
    /// Neither a program of this machine's architecture nor a script.
    WrongFormat,
    /// Another answer of execve(2).
    Refused(Errno),
    /// The path is the working directory.
    WorkingDirectory(Errno),
    /// The working directory lies outside the container's root.
    OutsideRoot,
}

impl Reason {
    /// The reason that execve(2) gives with an error.
    pub(crate) fn of_exec(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Self::NotFound,
            Errno::EACCES | Errno::EPERM => Self::PermissionDenied,
            Errno::ENOEXEC => Self::WrongFormat,
            other => Self::Refused(other),
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::WorkingDirectory(_) | Self::OutsideRoot => "change to working directory",
            _ => "exec",
        }
    }

    /// A number for the wire; the error that goes with it is sent beside it.
    pub(crate) fn number(self) -> (u8, Errno) {
        match self {
            Self::NotFound => (0, Errno::ENOENT),
            Self::NotInPath => (1, Errno::ENOENT),
            Self::NoInterpreter => (2, Errno::ENOENT),
            Self::PermissionDenied => (3, Errno::EACCES),
            Self::WrongFormat => (4, Errno::ENOEXEC),
            Self::Refused(errno) => (5, errno),
            Self::WorkingDirectory(errno) => (6, errno),
            Self::OutsideRoot => (7, Errno::EXDEV),
        }
    }

    pub(crate) fn from_number(number: u8, errno: Errno) -> Option<Self> {
        Some(match number {
            0 => Self::NotFound,
            1 => Self::NotInPath,
            2 => Self::NoInterpreter,
            3 => Self::PermissionDenied,
            4 => Self::WrongFormat,
            5 => Self::Refused(errno),
            6 => Self::WorkingDirectory(errno),
            7 => Self::OutsideRoot,
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such file or directory"),
            Self::NotInPath => f.write_str("executable file not found in $PATH"),
            Self::NoInterpreter => f.write_str(
                "no such file or directory: its interpreter or dynamic linker is missing",
            ),
            Self::PermissionDenied => f.write_str("permission denied"),
            Self::WrongFormat => {
                f.write_str("exec format error: not a program for this machine's architecture")
            }
            Self::Refused(errno) | Self::WorkingDirectory(errno) => f.write_str(&describe(*errno)),
            Self::OutsideRoot => f.write_str("outside of the container's root"),
        }
    }
}

impl StartError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidSpec(what.into())
    }

    pub(crate) fn working_directory(path: &Path, errno: Errno) -> Self {
        Self::NotExecutable {
            path: path.to_owned(),
            reason: Reason::WorkingDirectory(errno),
        }
    }
}

/// Says what was being done when a call failed.
pub(crate) trait Context<T> {
    /// `step` reads on into the path: "open", "attach a mount at".
    fn step(self, step: impl Into<String>, path: impl AsRef<Path>) -> Result<T, StartError>;
}

impl<T> Context<T> for nix::Result<T> {
    fn step(self, step: impl Into<String>, path: impl AsRef<Path>) -> Result<T, StartError> {
        self.map_err(|errno| StartError::Io {
            step: step.into(),
            path: path.as_ref().to_owned(),
            errno,
        })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn step(self, step: impl Into<String>, path: impl AsRef<Path>) -> Result<T, StartError> {
        self.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
            .step(step, path)
    }
}

impl<T> Context<T> for Result<T, FsError> {
    fn step(self, step: impl Into<String>, path: impl AsRef<Path>) -> Result<T, StartError> {
        self.map_err(|error| {
            let detail = match error.detail.as_str() {
                "" => String::new(),
                detail => format!(" ({detail})"),
            };
            StartError::Io {
                step: format!("{}{detail} {}", error.operation, step.into()),
                path: path.as_ref().to_owned(),
                errno: error.errno,
            }
        })
    }
}

fn at(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" {}", path.display()),
    }
}

/// The error's text, fit for the end of a sentence.
fn describe(errno: Errno) -> String {
    let text = errno.desc();
    text.chars()
        .take(1)
        .flat_map(char::to_lowercase)
        .chain(text.chars().skip(1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_path_and_the_reason() {
        let not_executable = |reason| StartError::NotExecutable {
            path: "/bin/nope".into(),
            reason,
        };
        let io: Result<(), _> = Err(Errno::ENOTDIR).step("attach a mount at", "/data");
        let bare: Result<(), _> = Err(Errno::EPERM).step("set the hostname", "");
        for (error, text) in [
            (
                not_executable(Reason::NotFound),
                "exec /bin/nope: no such file or directory",
            ),
            (
                not_executable(Reason::WorkingDirectory(Errno::ENOTDIR)),
                "change to working directory /bin/nope: not a directory",
            ),
            (io.unwrap_err(), "attach a mount at /data: not a directory"),
            (
                bare.unwrap_err(),
                "set the hostname: operation not permitted",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn reasons_survive_the_wire() {
        for number in 0..=7 {
            let reason = Reason::from_number(number, Errno::EIO).unwrap();
            assert_eq!(reason.number().0, number);
        }
        assert_eq!(Reason::from_number(8, Errno::EIO), None);
    }
}
