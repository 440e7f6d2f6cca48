//! Runtime handlers: what runs the containers of a pod, and what it can do.

use crate::config::Config;
use crate::error::{Error, Kind, Result, chain};
use crate::view::Handler;
use crisp_helper::Helper;
use crisp_model::PodConfig;
use crisp_shim_api::message::OciRuntime;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long `COMMAND features` may take.
const FEATURES_TIMEOUT: Duration = Duration::from_secs(5);

/// The most that it may answer; runc and crun answer with some 10 KiB.
const FEATURES_MAX_BYTES: usize = 1 << 20;

/// What the handlers of a configuration can do, asked once.
#[derive(Debug, Default)]
pub(crate) struct Handlers(BTreeMap<String, Known>);

/// A handler with the runtime that it had when it was asked; none: the embedded one.
#[derive(Debug)]
struct Known {
    handler: Handler,
    runtime: Option<RuntimeCommand>,
}

/// The runtime that a handler names. A pod keeps the one that it was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeCommand {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
}

/// The part of `COMMAND features` that matters here (OCI runtime spec, features.md).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Features {
    linux: LinuxFeatures,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinuxFeatures {
    namespaces: Vec<String>,
}

impl Handlers {
    /// Asks all runtimes at once; one that does not answer offers nothing.
    pub(crate) async fn inspect(config: &Config) -> Self {
        let mut asking = tokio::task::JoinSet::new();
        for name in config.handler_names() {
            let runtime = RuntimeCommand::of(config, name);
            asking.spawn(inspect(name.to_owned(), runtime));
        }
        let known = asking.join_all().await.into_iter();
        Self(known.map(|it| (it.handler.name.clone(), it)).collect())
    }

    /// All there are, by name.
    pub(crate) fn all(&self) -> Vec<Handler> {
        self.0.values().map(|known| known.handler.clone()).collect()
    }

    /// The runtime for a pod, if the handler can run it; none: the embedded one.
    pub(crate) fn runtime_for(
        &self,
        name: &str,
        pod: &PodConfig,
    ) -> Result<Option<RuntimeCommand>> {
        let Known { handler, runtime } = self.0.get(name).ok_or_else(|| Error::NotFound {
            kind: Kind::Handler,
            id: name.to_owned(),
        })?;
        if let Some(runtime) = runtime {
            executable(name, &runtime.program)?;
        }
        if pod.security.namespaces.user.is_some() && !handler.user_namespaces {
            return Err(Error::Unsupported(format!(
                "runtime handler {name:?} does not say that it supports user namespaces \
                 (`features` of its command)"
            )));
        }
        Ok(runtime.clone())
    }
}

impl RuntimeCommand {
    /// None: the embedded runtime.
    fn of(config: &Config, handler: &str) -> Option<Self> {
        let settings = config.handlers.get(handler)?;
        let (program, args) = (settings.command.clone()?, settings.args.clone());
        Some(Self { program, args })
    }
}

impl From<RuntimeCommand> for OciRuntime {
    fn from(runtime: RuntimeCommand) -> Self {
        Self {
            program: runtime.program.display().to_string(),
            arguments: runtime.args,
        }
    }
}

fn executable(handler: &str, program: &Path) -> Result<()> {
    access(program, AccessFlags::X_OK).map_err(|errno| {
        Error::FailedPrecondition(format!(
            "runtime handler {handler:?} cannot be used: {}: {}",
            program.display(),
            errno.desc()
        ))
    })
}

async fn inspect(name: String, runtime: Option<RuntimeCommand>) -> Known {
    let user_namespaces = match runtime.clone() {
        None => true,
        Some(runtime) => {
            let features = features(runtime).await.unwrap_or_else(|why| {
                tracing::info!(handler = name, why, "a runtime does not tell its features");
                Features::default()
            });
            features.linux.namespaces.iter().any(|kind| kind == "user")
        }
    };
    let handler = Handler {
        name,
        user_namespaces,
        // Of mounts crisp makes for every runtime what not all can make.
        recursive_read_only_mounts: true,
    };
    Known { handler, runtime }
}

/// What a runtime says of itself, or why it does not.
async fn features(runtime: RuntimeCommand) -> std::result::Result<Features, String> {
    let args = runtime.args.into_iter().map(OsString::from);
    let helper = Helper {
        program: runtime.program,
        args: args.chain(["features".into()]).collect(),
        env: Vec::new(),
        input: Vec::new(),
        timeout: FEATURES_TIMEOUT,
        max_output_bytes: FEATURES_MAX_BYTES,
    };
    let output = helper.run().await.map_err(|error| chain(&error))?;
    match output.status.success() {
        true => serde_json::from_slice(&output.stdout).map_err(|error| error.to_string()),
        false => Err(output.status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shell takes the place of a runtime; `features` becomes its `$0`.
    async fn handlers(script: &str) -> Handlers {
        let text =
            format!("[handlers.other]\ncommand = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\n");
        let config = Config::parse(&text, Path::new("/x.toml")).unwrap();
        Handlers::inspect(&config).await
    }

    #[tokio::test]
    async fn a_runtime_offers_what_it_says() {
        let answer = r#"echo '{"linux":{"namespaces":["mount","user"]},"mountOptions":["ro"]}'"#;
        let all = handlers(answer).await.all();
        let told: Vec<_> = all
            .iter()
            .map(|it| (it.name.as_str(), it.user_namespaces))
            .collect();
        assert_eq!(told, [("", true), ("other", true)]);
    }

    #[tokio::test]
    async fn a_runtime_that_tells_nothing_offers_nothing() {
        for script in ["exit 1", "echo nonsense", "echo '{}'"] {
            let offered = handlers(script).await.0["other"].handler.user_namespaces;
            assert!(!offered, "{script}");
        }
    }
}
