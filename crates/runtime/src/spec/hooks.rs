//! Programs of the host, or of the container, that are run at points of the container's life (OCI
//! runtime spec, "POSIX-platform Hooks").

use super::process::c_strings;
use crate::error::StartError;
use oci_spec::runtime::Spec;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a hook may take that names no time of its own.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A point of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// In the caller's namespaces, when those of the container are there and all is mounted.
    Prestart,
    /// As `Prestart`, which it replaces.
    CreateRuntime,
    /// In the container's namespaces, but with the host's files still in sight.
    CreateContainer,
    /// In the container, as its user.
    StartContainer,
    /// In the caller's namespaces, when the container's program runs.
    Poststart,
    /// In the caller's namespaces, when the container has ended.
    Poststop,
}

impl Point {
    /// Its name in the spec.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The container's state at this point (OCI runtime spec, "State").
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) point: Point,
    pub(crate) path: PathBuf,
    /// Not empty.
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) timeout: Duration,
}

/// All hooks of a container, in the order in which those of a point are run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks(Vec<Hook>);

impl Hooks {
    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, StartError> {
        let Some(hooks) = spec.hooks() else {
            return Ok(Self::default());
        };
        let prestart = hooks.prestart();
        let points = [
            (Point::Prestart, prestart),
            (Point::CreateRuntime, hooks.create_runtime()),
            (Point::CreateContainer, hooks.create_container()),
            (Point::StartContainer, hooks.start_container()),
            (Point::Poststart, hooks.poststart()),
            (Point::Poststop, hooks.poststop()),
        ];
        let mut all = Vec::new();
        for (point, hooks) in points {
            for given in hooks.as_deref().unwrap_or_default() {
                all.push(hook(point, given)?);
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn at(&self, point: Point) -> impl Iterator<Item = &Hook> {
        self.0.iter().filter(move |hook| hook.point == point)
    }

    pub(crate) fn any_at(&self, points: &[Point]) -> bool {
        self.0.iter().any(|hook| points.contains(&hook.point))
    }
}

fn hook(point: Point, given: &oci_spec::runtime::Hook) -> Result<Hook, StartError> {
    let path = given.path();
    let field = |name: &str| format!("hooks.{}: {name} of {}", point.name(), path.display());
    if !path.is_absolute() {
        return Err(StartError::invalid(format!(
            "{}: not absolute",
            field("path")
        )));
    }
    let own_name = [path_text(path)?];
    let arguments = given.args().as_deref().filter(|args| !args.is_empty());
    let timeout = match given.timeout() {
        None => DEFAULT_TIMEOUT,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => {
                let field = field("timeout");
                return Err(StartError::invalid(format!("{field}: {seconds} s")));
            }
        },
    };
    Ok(Hook {
        point,
        path: path.clone(),
        arguments: c_strings(&field("args"), arguments.unwrap_or(&own_name))?,
        environment: c_strings(&field("env"), given.env().as_deref().unwrap_or_default())?,
        timeout,
    })
}

fn path_text(path: &Path) -> Result<String, StartError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| StartError::invalid(format!("hooks: path {path:?} is not UTF-8")))
}
