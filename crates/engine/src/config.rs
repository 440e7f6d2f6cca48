//! The configuration file: one TOML file, all of it optional.
//!
//! `default.toml` explains every setting and is what `crisp config default` prints; a test keeps it
//! and [`Config::default`] equal.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The text of the default configuration, with every setting explained.
pub const DEFAULT: &str = include_str!("default.toml");

/// Where the configuration is looked for when nobody names a file.
pub const DEFAULT_PATH: &str = "/etc/crisp/config.toml";

/// The daemon's settings. What each means stands in `default.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub root_dir: PathBuf,
    pub run_dir: PathBuf,
    socket: PathBuf,
    pub netns_dir: PathBuf,
    shim_path: PathBuf,
    pub instance: String,
    pub sandbox_image: String,
    pub pod_pids_limit: i64,
    pub container_pids_limit: i64,
    pub container_disk_limit_bytes: u64,
    pub unset_seccomp_profile: UnsetSeccomp,
    pub enable_selinux: bool,
    pub cdi_dirs: Vec<PathBuf>,
    pub criu: PathBuf,
    pub cgroup: CgroupSettings,
    pub network: crisp_network::Settings,
    pub image: crisp_image::Settings,
    pub streaming: StreamingSettings,
    pub metrics: MetricsSettings,
    pub tracing: TracingSettings,
    pub handlers: BTreeMap<String, HandlerSettings>,
}

/// What confines containers that ask for no seccomp profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnsetSeccomp {
    Unconfined,
    RuntimeDefault,
}

/// Section `[cgroup]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupSettings {
    pub root: PathBuf,
    pub default_parent: String,
}

/// Section `[streaming]`: the server for exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamingSettings {
    pub address: SocketAddr,
    pub idle_timeout_s: u64,
    pub creation_timeout_s: u64,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub client_ca: Option<PathBuf>,
}

/// Section `[metrics]`: the endpoint for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// None: there is no endpoint.
    pub address: Option<SocketAddr>,
}

/// Section `[tracing]`: the collector of traces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingSettings {
    /// None: traces go nowhere.
    pub endpoint: Option<String>,
    pub samples_per_million: u32,
}

impl TracingSettings {
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, reason: &str| Err((format!("tracing.{key}"), reason.to_owned()));
        match &self.endpoint {
            Some(endpoint) if !endpoint.starts_with("http://") => {
                wrong("endpoint", "a URL as http://127.0.0.1:4317 is needed")
            }
            _ if self.samples_per_million > 1_000_000 => {
                wrong("samples_per_million", "is more than 1000000, which are all")
            }
            _ => Ok(()),
        }
    }
}

impl StreamingSettings {
    /// TLS takes both of its files.
    fn check(&self) -> Result<(), (String, String)> {
        let whole = self.certificate.is_some() == self.key.is_some();
        if whole && (self.client_ca.is_none() || self.key.is_some()) {
            return Ok(());
        }
        let reason = "certificate and key are needed together, and client_ca only with them";
        Err(("streaming".to_owned(), reason.to_owned()))
    }
}

/// Section `[handlers.NAME]`: a runtime handler; what it leaves out is as in the default one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandlerSettings {
    /// None: the embedded runtime.
    pub command: Option<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    pub pod_pids_limit: Option<i64>,
    pub container_pids_limit: Option<i64>,
    pub container_disk_limit_bytes: Option<u64>,
}

impl HandlerSettings {
    fn check(&self, name: &str) -> Result<(), (String, String)> {
        let wrong = |key: &str, reason: String| Err((format!("handlers.{name}{key}"), reason));
        // As RuntimeClass objects have it: a label of the DNS.
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=63).contains(&name.len()) || !name.chars().all(allowed) {
            let reason = "1 to 63 lower-case letters, digits and hyphens make a handler's name";
            return wrong("", reason.to_owned());
        }
        match &self.command {
            Some(command) if !command.is_absolute() => wrong(".command", not_absolute(command)),
            None if !self.args.is_empty() => {
                wrong(".args", "the embedded runtime takes none".to_owned())
            }
            _ if self.args.iter().any(|arg| arg.contains('\0')) => {
                wrong(".args", "no argument can have a zero byte".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Limits on processes, as a handler has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidsLimits {
    /// None: no limit.
    pub pod: Option<i64>,
    pub container: Option<i64>,
}

/// A configuration that cannot be used: names the file, and the line or the setting.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {reason}", path = path.display())]
    Parse { path: PathBuf, reason: String },
    #[error("{path}: {setting}: {reason}", path = path.display())]
    Setting {
        path: PathBuf,
        setting: String,
        reason: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root_dir: "/var/lib/crisp".into(),
            run_dir: "/run/crisp".into(),
            socket: PathBuf::new(),
            netns_dir: "/run/netns".into(),
            shim_path: PathBuf::new(),
            instance: String::new(),
            sandbox_image: "registry.k8s.io/pause:3.10.2".into(),
            pod_pids_limit: 16_384,
            container_pids_limit: 0,
            container_disk_limit_bytes: 0,
            unset_seccomp_profile: UnsetSeccomp::Unconfined,
            enable_selinux: false,
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            criu: "criu".into(),
            cgroup: CgroupSettings::default(),
            network: crisp_network::Settings::default(),
            image: crisp_image::Settings::default(),
            streaming: StreamingSettings::default(),
            metrics: MetricsSettings::default(),
            tracing: TracingSettings::default(),
            handlers: BTreeMap::new(),
        }
    }
}

impl Default for CgroupSettings {
    fn default() -> Self {
        Self {
            root: "/sys/fs/cgroup".into(),
            default_parent: "/crisp".into(),
        }
    }
}

impl Default for StreamingSettings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            idle_timeout_s: 4 * 60 * 60,
            creation_timeout_s: 30,
            certificate: None,
            key: None,
            client_ca: None,
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown key, or a value that cannot be.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the file at [`DEFAULT_PATH`] if there is one.
    ///
    /// # Errors
    /// As [`Config::load`]; a file that is missing is none.
    pub fn load_default() -> Result<Self, ConfigError> {
        let path = Path::new(DEFAULT_PATH);
        match path.exists() {
            true => Self::load(path),
            false => Ok(Self::default()),
        }
    }

    /// Reads the text of a configuration file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        config
            .check()
            .map_err(|(setting, reason)| ConfigError::Setting {
                path: path.to_owned(),
                setting,
                reason,
            })?;
        Ok(config)
    }

    /// The socket of the CRI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        or(&self.socket, || self.run_dir.join("crisp.sock"))
    }

    /// The shim's program.
    #[must_use]
    pub fn shim_path(&self) -> PathBuf {
        or(&self.shim_path, || match std::env::current_exe() {
            Ok(exe) => exe.with_file_name("crisp-shim"),
            Err(_) => "/usr/libexec/crisp/crisp-shim".into(),
        })
    }

    /// The runtime handlers' names; the default one has the empty name.
    pub fn handler_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once("").chain(self.handlers.keys().map(String::as_str))
    }

    /// Whether there is a runtime handler of this name.
    #[must_use]
    pub fn has_handler(&self, name: &str) -> bool {
        name.is_empty() || self.handlers.contains_key(name)
    }

    /// The limits on processes under a runtime handler; for pods of one that is in the file no more,
    /// the general ones.
    #[must_use]
    pub fn pids_limits(&self, handler: &str) -> PidsLimits {
        let settings = self.handlers.get(handler).cloned().unwrap_or_default();
        let limit =
            |own: Option<i64>, general: i64| Some(own.unwrap_or(general)).filter(|n| *n > 0);
        PidsLimits {
            pod: limit(settings.pod_pids_limit, self.pod_pids_limit),
            container: limit(settings.container_pids_limit, self.container_pids_limit),
        }
    }

    /// What a container may write under a runtime handler, as [`Self::pids_limits`]; none: no limit.
    #[must_use]
    pub fn container_disk_limit(&self, handler: &str) -> Option<u64> {
        let settings = self.handlers.get(handler);
        let own = settings.and_then(|settings| settings.container_disk_limit_bytes);
        Some(own.unwrap_or(self.container_disk_limit_bytes)).filter(|bytes| *bytes > 0)
    }

    /// Whether what any container writes is limited.
    #[must_use]
    pub fn limits_disk(&self) -> bool {
        self.handler_names()
            .any(|handler| self.container_disk_limit(handler).is_some())
    }

    fn check(&self) -> Result<(), (String, String)> {
        let cdi_dirs = self.cdi_dirs.iter().map(|dir| ("cdi_dirs", dir));
        let paths = [
            ("root_dir", &self.root_dir),
            ("run_dir", &self.run_dir),
            ("socket", &self.socket),
            ("netns_dir", &self.netns_dir),
            ("shim_path", &self.shim_path),
            ("cgroup.root", &self.cgroup.root),
        ];
        for (setting, path) in paths.into_iter().chain(cdi_dirs) {
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                return Err((setting.to_owned(), not_absolute(path)));
            }
        }
        if self.criu.components().count() > 1 && !self.criu.is_absolute() {
            return Err(("criu".to_owned(), not_absolute(&self.criu)));
        }
        let instance_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.instance.len() > 24 || !self.instance.chars().all(instance_ok) {
            let reason = "at most 24 lower-case letters, digits and hyphens are allowed".to_owned();
            return Err(("instance".to_owned(), reason));
        }
        self.streaming.check()?;
        self.tracing.check()?;
        for (name, handler) in &self.handlers {
            handler.check(name)?;
        }
        self.network
            .validate()
            .map_err(|e| ("network".to_owned(), e.to_string()))
    }
}

impl fmt::Display for UnsetSeccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unconfined => "unconfined",
            Self::RuntimeDefault => "runtime-default",
        })
    }
}

fn not_absolute(path: &Path) -> String {
    format!("{:?} is not an absolute path", path.display().to_string())
}

fn or(path: &Path, default: impl FnOnce() -> PathBuf) -> PathBuf {
    match path.as_os_str().is_empty() {
        true => default(),
        false => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/x.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_printed_default_is_the_default_and_names_every_setting() {
        assert_eq!(parse(DEFAULT).unwrap(), Config::default());
        let all = toml::Table::try_from(Config::default()).unwrap();
        let printed: toml::Table = DEFAULT.parse().unwrap();
        assert_eq!(printed, all_but_handlers(all));
    }

    fn all_but_handlers(mut table: toml::Table) -> toml::Table {
        table.remove("handlers");
        table
    }

    #[test]
    fn a_wrong_key_or_value_is_refused_with_file_and_line() {
        let error = parse("root_dir = \"/x\"\nnosuch = 1\n").unwrap_err();
        assert!(
            error.contains("/etc/x.toml") && error.contains("line 2") && error.contains("nosuch"),
            "{error}"
        );
        let error = parse("pod_pids_limit = \"many\"\n").unwrap_err();
        assert!(error.contains("line 1"), "{error}");
        for (setting, value) in [
            ("endpoint", "\"127.0.0.1:4317\""),
            ("samples_per_million", "1000001"),
        ] {
            let error = parse(&format!("[tracing]\n{setting} = {value}\n")).unwrap_err();
            assert!(error.contains(&format!("tracing.{setting}")), "{error}");
        }
        let error = parse("run_dir = \"here\"\n").unwrap_err();
        assert!(
            error.contains("run_dir") && error.contains("absolute"),
            "{error}"
        );
    }

    #[test]
    fn a_handlers_command_is_an_absolute_path() {
        let good =
            parse("[handlers.runc]\ncommand = \"/usr/bin/runc\"\nargs = [\"--debug\"]\n").unwrap();
        let command = good.handlers["runc"].command.as_deref();
        assert_eq!(command, Some(Path::new("/usr/bin/runc")));
        for (text, setting) in [
            (
                "[handlers.runc]\ncommand = \"runc\"\n",
                "handlers.runc.command",
            ),
            (
                "[handlers.runc]\nargs = [\"--debug\"]\n",
                "handlers.runc.args",
            ),
            ("[handlers.\"\"]\n", "handlers."),
            ("[handlers.a_b]\n", "handlers.a_b"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(setting), "{error}");
        }
    }

    #[test]
    fn a_handler_overrides_the_limits_that_it_names() {
        let config =
            parse("pod_pids_limit = 100\n[handlers.small]\ncontainer_pids_limit = 5\n").unwrap();
        let limits = |handler| config.pids_limits(handler);
        let general = PidsLimits {
            pod: Some(100),
            container: None,
        };
        assert_eq!(limits(""), general);
        assert_eq!(
            limits("small"),
            PidsLimits {
                container: Some(5),
                ..general
            }
        );
        assert_eq!(limits("gone"), general);
        assert!(config.has_handler("") && config.has_handler("small"));
        assert!(!config.has_handler("gone"));
        assert!(!config.limits_disk());
        let config = parse(
            "container_disk_limit_bytes = 5\n[handlers.large]\ncontainer_disk_limit_bytes = 0\n",
        );
        let config = config.unwrap();
        assert_eq!(config.container_disk_limit(""), Some(5));
        assert_eq!(config.container_disk_limit("large"), None);
    }
}
