//! The Container Device Interface (CDI): vendors describe devices in files, and a container that asks for
//! a device by its name gets what the description says.
//!
//! ```text
//! names ─▶ edits ─▶ library (files of all directories) ─▶ description (one file)
//! ```
//!
//! Specification: <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>. The files
//! are read whenever a device is asked for, so that they are never out of date. Nothing here looks at a
//! device or knows what a container is.

#![forbid(unsafe_code)]

mod description;
mod library;

pub use description::{DeviceNode, Edits, Hook, HookPoint, Mount};
pub use library::edits;

use std::path::PathBuf;

/// Why a container cannot have a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No file describes it. `unusable` are files that say nothing because of what is wrong with them.
    #[error(
        "CDI device {name} is not described in {}{}",
        list(dirs),
        also(unusable)
    )]
    Unknown {
        name: String,
        dirs: Vec<PathBuf>,
        unusable: Vec<String>,
    },
    /// Files of the same directory describe it, and none of them counts more.
    #[error("CDI device {name} is described more than once: in {}", list(files))]
    Conflict { name: String, files: Vec<PathBuf> },
    /// Its description asks for what no container of crisp can have.
    #[error("CDI device {name}: {what} of {} are not supported", file.display())]
    Unsupported {
        name: String,
        what: &'static str,
        file: PathBuf,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

fn also(unusable: &[String]) -> String {
    match unusable.is_empty() {
        true => String::new(),
        false => format!("; unusable files there: {}", unusable.join("; ")),
    }
}
