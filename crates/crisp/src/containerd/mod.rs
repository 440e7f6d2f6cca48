//! crisp under the names of containerd's programs, for tools that know a node by these alone: kind,
//! minikube and k3d load images with `ctr` and ask `containerd` for its version and snapshotter.
//!
//! A link from such a name to crisp is enough. What these tools call is done, and what changes nothing
//! about what they want is ignored: images are always unpacked, by one snapshotter, for this machine
//! alone. All else is refused with a message that says so.

mod ctr;
mod images;

use crate::client::Target;
use crate::{output, serve};
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

/// The one namespace of containerd's that Kubernetes sees.
const NAMESPACE: &str = "k8s.io";

/// What images are unpacked by, as containerd calls it.
const SNAPSHOTTER: &str = "overlayfs";

/// What `containerd config dump` is read for: kind looks for the snapshotter, where this version of the
/// format has it.
const CONFIG: &str = "\
version = 3

[plugins.'io.containerd.cri.v1.images']
snapshotter = \"overlayfs\"
";

const INSTEAD: &str = "\nThis is crisp in containerd's place, with the commands alone by which tools load images. \
    See also `crisp --help` and `crictl --help`.";

/// One of containerd's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Containerd,
    Ctr,
}

impl Program {
    /// The one that this process is called by.
    pub(crate) fn called() -> Option<Self> {
        Self::named(&std::env::args_os().next()?)
    }

    fn named(path: &OsStr) -> Option<Self> {
        match Path::new(path).file_name()?.to_str()? {
            "containerd" => Some(Self::Containerd),
            "ctr" => Some(Self::Ctr),
            _ => None,
        }
    }

    pub(crate) fn run(self) -> Result<ExitCode> {
        let done = match self {
            Self::Containerd => Containerd::try_parse().map(|containerd| containerd.run()),
            Self::Ctr => ctr::Arguments::try_parse().map(|arguments| ctr::run(&arguments)),
        };
        match done {
            Ok(done) => done.map(|()| ExitCode::SUCCESS),
            Err(error) => told(&error),
        }
    }
}

/// Shows help, or why the arguments are refused: to who expects containerd, with who is asked instead.
fn told(error: &clap::Error) -> Result<ExitCode> {
    error.print()?;
    if error.use_stderr() {
        output::note(INSTEAD);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// crisp in containerd's place: the daemon.
#[derive(Debug, Parser)]
#[command(name = "containerd", disable_version_flag = true)]
struct Containerd {
    /// Print the version, in containerd's form.
    #[arg(short, long)]
    version: bool,
    #[command(flatten)]
    serve: serve::Arguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What tools read of containerd's configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The one in force.
    Dump,
    /// The one without a file.
    Default,
}

impl Containerd {
    fn run(&self) -> Result<()> {
        if self.version {
            return output::line(version());
        }
        match &self.command {
            Some(Command::Config {
                command: ConfigCommand::Dump | ConfigCommand::Default,
            }) => output::result(CONFIG),
            None => serve::run(&self.serve, &Target::default()),
        }
    }
}

/// `containerd <package> v<version> <revision>`, of which tools take the third word.
fn version() -> String {
    format!("containerd crisp v{} crisp", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_name_wherever_it_is() {
        for (path, program) in [
            ("ctr", Some(Program::Ctr)),
            ("/usr/local/bin/containerd", Some(Program::Containerd)),
            ("/usr/local/bin/crisp", None),
            ("ctr.sh", None),
            ("/", None),
        ] {
            assert_eq!(Program::named(OsStr::new(path)), program, "{path}");
        }
    }

    #[test]
    fn the_configuration_names_the_snapshotter_that_ctr_takes() {
        let named = format!("snapshotter = \"{SNAPSHOTTER}\"\n");
        assert!(CONFIG.ends_with(&named), "{CONFIG}");
        assert_eq!(version().split(' ').count(), 4);
    }
}
