//! Networks as files describe them (specification, section 1).

use crate::{Error, Version};
use crisp_sys::file::read_text_bounded;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Longest file. Those that list many delegates have some 10 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Plugins of one network.
const PLUGINS_MAX: usize = 64;

/// A plugin's own configuration.
pub(crate) type Plugin = Map<String, Value>;

/// What the names of configurations end with.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// The extension of a configuration that lists plugins; the others are of one plugin each.
const LIST: &str = "conflist";

/// A network: the plugins that are run one after the other for each namespace that is connected to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    pub version: Version,
    /// The file that describes it.
    pub source: PathBuf,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// Each an object with a `type` that can be the name of a file.
    pub(crate) plugins: Vec<Plugin>,
}

impl Network {
    /// The network of the first file by name in a directory; none: there is no configuration, or no
    /// directory. A first file that is wrong is not passed over: pods would get another network than
    /// the one they are meant to have.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`]; [`Error::Io`] for what cannot be read.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let Some(path) = first_file(dir).map_err(io_error("read", dir))? else {
            return Ok(None);
        };
        let text = read_text_bounded(&path, FILE_BYTES_MAX).map_err(io_error("read", &path))?;
        let parsed = match path.extension().is_some_and(|e| e == LIST) {
            true => Self::parse_list(&text, &path),
            false => Self::parse_single(&text, &path),
        };
        parsed
            .map(Some)
            .map_err(|reason| Error::InvalidConfig { path, reason })
    }

    /// What the plugins are called.
    pub fn plugin_types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(plugin_type)
    }

    /// The plugins' own configurations.
    #[must_use]
    pub fn plugins(&self) -> &[Map<String, Value>] {
        &self.plugins
    }

    fn parse_list(text: &str, source: &Path) -> Result<Self, String> {
        let list = object(text)?;
        let Some(Value::Array(entries)) = list.get("plugins") else {
            return Err("plugins: is no list".to_owned());
        };
        let plugins = entries.iter().enumerate().map(|(index, entry)| {
            let plugin = entry.as_object().cloned();
            plugin.ok_or_else(|| format!("plugins[{index}]: is no object"))
        });
        Self::new(&list, plugins.collect::<Result<_, _>>()?, source)
    }

    fn parse_single(text: &str, source: &Path) -> Result<Self, String> {
        let plugin = object(text)?;
        Self::new(&plugin, vec![plugin.clone()], source)
    }

    fn new(of_all: &Plugin, plugins: Vec<Plugin>, source: &Path) -> Result<Self, String> {
        if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
            return Err(format!("plugins: are not 1 to {PLUGINS_MAX}"));
        }
        for (index, plugin) in plugins.iter().enumerate() {
            if !is_file_name(plugin_type(plugin)) {
                return Err(format!("plugins[{index}].type: is no plugin's name"));
            }
        }
        let name = text_of(of_all, "name")?.unwrap_or_default();
        if !is_identifier(name) {
            return Err("name: is not letters, digits, '_', '.' and '-'".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            version: version(of_all)?,
            source: source.to_owned(),
            disable_check: switch(of_all, "disableCheck")?,
            disable_gc: switch(of_all, "disableGC")?,
            plugins,
        })
    }
}

pub(crate) fn plugin_type(plugin: &Plugin) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or("")
}

/// What networks and containers may be called.
pub(crate) fn is_identifier(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The newest version that both sides speak, of `cniVersions` and `cniVersion`.
fn version(of_all: &Plugin) -> Result<Version, String> {
    let said = match text_of(of_all, "cniVersion")? {
        None | Some("") => None,
        Some(text) => Some(text.parse::<Version>().map_err(|e| e.to_string())),
    };
    let others = match of_all.get("cniVersions") {
        None => &Vec::new(),
        Some(Value::Array(versions)) => versions,
        Some(_) => return Err("cniVersions: is no list".to_owned()),
    };
    let others = others
        .iter()
        .filter_map(|other| other.as_str()?.parse().ok());
    let spoken = said.clone().and_then(Result::ok);
    match (others.chain(spoken).max(), said) {
        (Some(newest), _) => Ok(newest),
        (None, Some(said)) => said,
        (None, None) => Ok(Version::UNSAID),
    }
}

fn text_of<'a>(map: &'a Plugin, key: &str) -> Result<Option<&'a str>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key}: is no text")),
    }
}

/// A truth value, or one as text, which older files have.
fn switch(map: &Plugin, key: &str) -> Result<bool, String> {
    match map.get(key) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(format!("{key}: is neither true nor false")),
    }
}

fn object(text: &str) -> Result<Plugin, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("is no JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn first_file(dir: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut first: Option<PathBuf> = None;
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        let is_config = extension.is_some_and(|e| EXTENSIONS.contains(&e)) && !path.is_dir();
        if is_config && first.as_ref().is_none_or(|first| path < *first) {
            first = Some(path);
        }
    }
    Ok(first)
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Option<Network>, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Network::load(dir.path()).map_err(|e| e.to_string())
    }

    fn list(rest: &str) -> Result<Network, String> {
        let text = format!(r#"{{"name": "n", "plugins": [{{"type": "a"}}], {rest}}}"#);
        load(&[("1.conflist", &text)]).map(Option::unwrap)
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let one =
            |name| format!(r#"{{"cniVersion": "0.4.0", "name": "{name}", "type": "bridge"}}"#);
        let many =
            r#"{"cniVersion": "1.0.0", "name": "list", "plugins": [{"type": "a"}, {"type": "b"}]}"#;
        let network = load(&[
            ("20-b.conf", &one("second")),
            ("10-a.json", &one("first")),
            ("00-readme.txt", "not a configuration"),
        ]);
        let network = network.unwrap().unwrap();
        assert_eq!(
            (network.name.as_str(), network.version),
            ("first", Version::V0_4_0)
        );
        assert!(network.source.ends_with("10-a.json"));
        assert_eq!(network.plugin_types().collect::<Vec<_>>(), ["bridge"]);

        let network = load(&[("b.conf", &one("x")), ("a.conflist", many)])
            .unwrap()
            .unwrap();
        assert_eq!(network.plugin_types().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(load(&[("notes.md", "")]), Ok(None));
        assert_eq!(Network::load(Path::new("/no/such/dir")).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_in_the_first_file_is_told_with_its_path() {
        let good = r#"{"cniVersion": "1.0.0", "name": "x", "type": "bridge"}"#;
        for (text, what) in [
            ("", "EOF"),
            ("[]", "object"),
            (r#"{"name": "x"}"#, "plugins"),
            (r#"{"name": "x", "plugins": []}"#, "plugins"),
            (r#"{"name": "x", "plugins": [1]}"#, "plugins[0]"),
            (
                r#"{"name": "x", "plugins": [{"type": "../sh"}]}"#,
                "plugins[0].type",
            ),
            (r#"{"name": "x", "plugins": [{}]}"#, "plugins[0].type"),
            (r#"{"name": "a b", "plugins": [{"type": "a"}]}"#, "name"),
            (r#"{"plugins": [{"type": "a"}]}"#, "name"),
            (
                r#"{"name": "x", "cniVersion": "7", "plugins": [{"type": "a"}]}"#,
                "\"7\"",
            ),
            (
                r#"{"name": "x", "disableCheck": 1, "plugins": [{"type": "a"}]}"#,
                "disableCheck",
            ),
        ] {
            let error = load(&[("1.conflist", text), ("2.conf", good)]).unwrap_err();
            assert!(
                error.contains("1.conflist") && error.contains(what),
                "{what}: {error}"
            );
        }
        let huge = " ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        assert!(load(&[("1.conf", &huge)]).is_err());
    }

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let version = |rest: &str| list(rest).unwrap().version;
        assert_eq!(version(r#""x": 1"#), Version::V0_1_0);
        assert_eq!(version(r#""cniVersion": "0.3.1""#), Version::V0_3_1);
        assert_eq!(
            version(r#""cniVersion": "0.3.1", "cniVersions": ["1.0.0", "0.4.0", "2.0.0"]"#),
            Version::V1_0_0
        );
        assert_eq!(
            version(r#""cniVersion": "2.0.0", "cniVersions": ["0.4.0"]"#),
            Version::V0_4_0
        );
    }

    #[test]
    fn switches_may_be_text() {
        for (rest, check, gc) in [
            (r#""disableCheck": true"#, true, false),
            (
                r#""disableCheck": "true", "disableGC": "false""#,
                true,
                false,
            ),
            (r#""disableGC": true"#, false, true),
        ] {
            let network = list(rest).unwrap();
            assert_eq!((network.disable_check, network.disable_gc), (check, gc));
        }
    }
}
