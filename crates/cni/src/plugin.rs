//! One run of one plugin: environment and configuration in, an answer out (specification, section 2).

use crate::{Error, Refusal};
use crisp_helper::{Helper, Output};
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The longest answer. One with many interfaces and routes has some 10 KiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// How much of a plugin's words a message has, in letters.
const WORDS_MAX: usize = 1000;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Check,
    Delete,
    CollectGarbage,
    Status,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Delete => "DEL",
            Self::CollectGarbage => "GC",
            Self::Status => "STATUS",
        })
    }
}

/// A run that is to be.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) plugin: &'a str,
    pub(crate) program: PathBuf,
    pub(crate) verb: Verb,
    /// Beside the daemon's own, in which iptables and the like are found.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) config: Vec<u8>,
    pub(crate) timeout: Duration,
}

/// Where a plugin's program is.
pub(crate) fn find(plugin: &str, dirs: &[PathBuf]) -> Result<PathBuf, Error> {
    let programs = dirs.iter().map(|dir| dir.join(plugin));
    let mut there = programs.filter(|program| program.is_file());
    there.next().ok_or_else(|| Error::NoPlugin {
        plugin: plugin.to_owned(),
        dirs: dirs.to_vec(),
    })
}

impl Run<'_> {
    /// Runs it to its end and gives what it answers. Dropping the future kills it.
    pub(crate) async fn run(&self) -> Result<Vec<u8>, Error> {
        let environment = self.environment.iter().cloned();
        let verb = ("CNI_COMMAND", self.verb.to_string());
        let helper = Helper {
            program: self.program.clone(),
            args: Vec::new(),
            env: environment
                .chain([verb])
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            input: self.config.clone(),
            timeout: self.timeout,
            max_output_bytes: ANSWER_BYTES_MAX,
        };
        let output = helper.run().await.map_err(|source| Error::Helper {
            plugin: self.plugin.to_owned(),
            verb: self.verb,
            source,
        })?;
        if !output.stderr.is_empty() {
            tracing::debug!(plugin = self.plugin, verb = %self.verb, stderr = words(&output.stderr), "a CNI plugin wrote");
        }
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(self.refused(&output)),
        }
    }

    /// The plugin's own reason, or what comes closest.
    fn refused(&self, output: &Output) -> Error {
        match serde_json::from_slice::<ErrorAnswer>(&output.stdout) {
            Ok(error) => Error::Refused {
                plugin: self.plugin.to_owned(),
                verb: self.verb,
                refusal: error.into(),
            },
            Err(_) => {
                let said = [&output.stdout, &output.stderr].map(|said| words(said));
                let said = said.join(" ");
                self.failed(format!("{}; it said: {}", output.status, said.trim()))
            }
        }
    }

    pub(crate) fn failed(&self, reason: String) -> Error {
        Error::Failed {
            plugin: self.plugin.to_owned(),
            verb: self.verb,
            reason,
        }
    }
}

/// The answer of a plugin that fails.
#[derive(Debug, Deserialize)]
struct ErrorAnswer {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl From<ErrorAnswer> for Refusal {
    fn from(answer: ErrorAnswer) -> Self {
        Self {
            code: answer.code,
            message: words(answer.msg.as_bytes()),
            details: words(answer.details.as_bytes()),
        }
    }
}

/// A plugin's words as part of a message: of bounded length, on one line.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = text.trim().chars().take(WORDS_MAX);
    plain
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `CNI_PATH`: where plugins find those that they delegate to.
pub(crate) fn search_path(dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(":")
}
