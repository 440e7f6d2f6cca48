//! The container's first process, and processes exec'd into it: arguments, environment, user.

use super::{SpecError, SpecInput, capabilities};
use crate::{ContainerConfig, ResolvedUser};
use oci_spec::runtime::{Process, ProcessBuilder, User, UserBuilder};

/// What an image says of how it is run (OCI image spec, `config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageDefaults {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: String,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
}

/// Where programs are looked for when neither image nor configuration say so.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The argument vector: a command replaces entrypoint and arguments of the image, arguments alone
/// replace the image's arguments.
///
/// # Errors
/// If nothing names a command.
pub fn arguments(
    config: &ContainerConfig,
    image: &ImageDefaults,
) -> Result<Vec<String>, SpecError> {
    let all: Vec<String> = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => [&image.entrypoint[..], &image.command[..]].concat(),
        (true, false) => [&image.entrypoint[..], &config.args[..]].concat(),
        (false, _) => [&config.command[..], &config.args[..]].concat(),
    };
    if all.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    Ok(all)
}

/// The environment: the image's, then the configuration's over it; names stay in the order in which
/// they first appear.
#[must_use]
pub fn environment(
    config: &ContainerConfig,
    image: &ImageDefaults,
    hostname: &str,
    home: &str,
) -> Vec<String> {
    let mut all: Vec<(String, String)> = vec![
        ("PATH".into(), DEFAULT_PATH.into()),
        ("HOSTNAME".into(), hostname.into()),
    ];
    if config.tty {
        all.push(("TERM".into(), "xterm".into()));
    }
    all.push((
        "HOME".into(),
        if home.is_empty() { "/" } else { home }.into(),
    ));
    let of_image = image.environment.iter().map(|entry| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    });
    for (name, value) in of_image.chain(config.envs.iter().cloned()) {
        match all.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => all.push((name, value)),
        }
    }
    all.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

pub(super) fn container_process(input: &SpecInput<'_>) -> Result<Process, SpecError> {
    let (config, security) = (input.container, &input.container.security);
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user(input.user)?)
        .args(arguments(config, input.image)?)
        .env(environment(
            config,
            input.image,
            input.hostname,
            &input.user.home,
        ))
        .cwd(working_dir(config, input.image)?)
        .capabilities(capabilities::process_capabilities(
            security,
            input.held_capabilities,
        )?)
        .no_new_privileges(security.no_new_privs)
        .build()?;
    // The builder's default is a limit on open files that nobody asked for.
    process.set_rlimits(None);
    process.set_oom_score_adj(config.resources.oom_score_adj);
    process.set_apparmor_profile(input.labels.apparmor_profile.clone());
    process.set_selinux_label(input.labels.selinux_process.clone());
    Ok(process)
}

fn working_dir(config: &ContainerConfig, image: &ImageDefaults) -> Result<String, SpecError> {
    let asked = [&config.working_dir, &image.working_dir]
        .into_iter()
        .find(|d| !d.is_empty());
    match asked {
        None => Ok("/".to_owned()),
        Some(dir) if dir.starts_with('/') => Ok(dir.clone()),
        Some(dir) => Err(SpecError::field(
            "working_dir",
            format!("{dir:?} is not an absolute path"),
        )),
    }
}

fn user(user: &ResolvedUser) -> Result<User, SpecError> {
    Ok(UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.groups.clone())
        .build()?)
}

/// A process exec'd into a container: as its first process, with other arguments.
#[must_use]
pub fn exec_process(first: Process, command: Vec<String>, terminal: bool) -> Process {
    let mut process = first;
    process.set_args(Some(command));
    process.set_terminal(Some(terminal));
    process.set_console_size(None);
    let has_term = |env: &[String]| env.iter().any(|e| e.starts_with("TERM="));
    if terminal && !process.env().as_deref().is_some_and(has_term) {
        let mut env = process.env().clone().unwrap_or_default();
        env.push("TERM=xterm".to_owned());
        process.set_env(Some(env));
    }
    process
}
