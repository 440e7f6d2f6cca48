//! A configuration file that is read again while pods run: what of it can take effect, and what cannot.

use crate::config::Config;
use std::collections::BTreeSet;
use toml::{Table, Value};

/// The settings and sections that what is made from then on goes by. All others need a restart: also
/// one that should be listed here and is not.
const RELOADABLE: [&str; 14] = [
    "sandbox_image",
    "pod_pids_limit",
    "container_pids_limit",
    "container_disk_limit_bytes",
    "unset_seccomp_profile",
    "cdi_dirs",
    "criu",
    "handlers",
    "image",
    "streaming.idle_timeout_s",
    "streaming.creation_timeout_s",
    "streaming.certificate",
    "streaming.key",
    "streaming.client_ca",
];

/// A setting whose value in the file is not the one in force. The values are TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// With its section, as in `image.pinned`.
    pub setting: String,
    pub in_force: String,
    pub in_file: String,
}

/// What becomes of a file that was read again.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// To be in force from now on.
    pub config: Config,
    pub taken_up: Vec<Difference>,
    pub needs_restart: Vec<Difference>,
}

impl Config {
    /// What is in force once `read` was read in the place of this configuration.
    ///
    /// # Panics
    /// Never: what was read as TOML can be written as such.
    #[must_use]
    pub fn reload(&self, read: &Self) -> Reload {
        let mut differences = Differences::default();
        let merged = differences.merge_tables("", &self.table(), &read.table());
        Reload {
            config: merged
                .try_into()
                .expect("each setting is that of one configuration or the other"),
            taken_up: differences.taken_up,
            needs_restart: differences.needs_restart,
        }
    }

    fn table(&self) -> Table {
        Table::try_from(self).expect("a configuration can be written as TOML")
    }
}

#[derive(Default)]
struct Differences {
    taken_up: Vec<Difference>,
    needs_restart: Vec<Difference>,
}

impl Differences {
    fn merge_tables(&mut self, section: &str, in_force: &Table, in_file: &Table) -> Table {
        let keys: BTreeSet<_> = in_force.keys().chain(in_file.keys()).collect();
        let settings = keys.into_iter().filter_map(|key| {
            let setting = match section {
                "" => key.clone(),
                section => format!("{section}.{key}"),
            };
            let merged = self.merge(&setting, in_force.get(key), in_file.get(key));
            merged.map(|value| (key.clone(), value))
        });
        settings.collect()
    }

    fn merge(
        &mut self,
        setting: &str,
        in_force: Option<&Value>,
        in_file: Option<&Value>,
    ) -> Option<Value> {
        if in_force == in_file {
            return in_force.cloned();
        }
        if let (Some(Value::Table(in_force)), Some(Value::Table(in_file))) = (in_force, in_file) {
            return Some(self.merge_tables(setting, in_force, in_file).into());
        }
        let difference = Difference {
            setting: setting.to_owned(),
            in_force: shown(in_force),
            in_file: shown(in_file),
        };
        if is_reloadable(setting) {
            self.taken_up.push(difference);
            in_file.cloned()
        } else {
            self.needs_restart.push(difference);
            in_force.cloned()
        }
    }
}

fn is_reloadable(setting: &str) -> bool {
    RELOADABLE.iter().any(|reloadable| {
        let rest = setting.strip_prefix(reloadable);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "unset".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/x.toml")).unwrap()
    }

    fn lines(differences: &[Difference]) -> Vec<String> {
        let line = |d: &Difference| format!("{}: {} -> {}", d.setting, d.in_force, d.in_file);
        differences.iter().map(line).collect()
    }

    #[test]
    fn what_can_change_is_taken_up_and_what_cannot_keeps_its_value() {
        let old = parse("run_dir = \"/run/x\"\npod_pids_limit = 5\n[handlers.gone]\n");
        let new = parse(
            "run_dir = \"/run/y\"\npod_pids_limit = 6\n[network]\nmtu = 1400\n\
             [image]\npinned = [\"busybox\"]\n[handlers.new]\npod_pids_limit = 7\n",
        );
        let reload = old.reload(&new);
        assert_eq!(
            lines(&reload.needs_restart),
            [
                "network.mtu: unset -> 1400",
                "run_dir: \"/run/x\" -> \"/run/y\""
            ]
        );
        assert_eq!(
            lines(&reload.taken_up),
            [
                "handlers.gone: {} -> unset",
                "handlers.new: unset -> { pod_pids_limit = 7 }",
                "image.pinned: [] -> [\"busybox\"]",
                "pod_pids_limit: 5 -> 6",
            ]
        );
        let mut expected = new;
        expected.run_dir = old.run_dir.clone();
        expected.network = old.network.clone();
        assert_eq!(reload.config, expected);
        assert_eq!(reload.config.reload(&expected).taken_up, []);
    }

    #[test]
    fn every_reloadable_setting_exists() {
        let streaming = "[streaming]\ncertificate = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"\n";
        let table = parse(streaming).table();
        for path in RELOADABLE {
            let mut words = path.split('.');
            let first = words.next().and_then(|word| table.get(word));
            assert!(
                words.fold(first, |value, word| value?.get(word)).is_some(),
                "{path}"
            );
        }
    }
}
