//! The plugins of a network, one after the other (specification, section 3 and 4).

use crate::answer;
use crate::network::{Plugin, plugin_type};
use crate::plugin::{self, Run};
use crate::{Attachment, Error, Network, Verb};
use crisp_crash::point;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many networks are worked on at once; who comes next waits, within its time.
const CHAINS_MAX: usize = 32;

/// How long all plugins of a network may take together. Those that talk to a cluster's controller while a
/// node starts are known to take minutes for ADD.
const ADD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
const DELETE_TIMEOUT: Duration = Duration::from_secs(60);
const GARBAGE_TIMEOUT: Duration = Duration::from_secs(60);
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

fn timeout(verb: Verb) -> Duration {
    match verb {
        Verb::Add => ADD_TIMEOUT,
        Verb::Check => CHECK_TIMEOUT,
        Verb::Delete => DELETE_TIMEOUT,
        Verb::CollectGarbage => GARBAGE_TIMEOUT,
        Verb::Status => STATUS_TIMEOUT,
    }
}

/// Runs plugins. A call whose future is dropped kills the plugin that runs.
#[derive(Debug)]
pub struct Client {
    bin_dirs: Vec<PathBuf>,
    chains: Semaphore,
}

impl Client {
    /// `bin_dirs`: where plugins are looked for, in this order.
    #[must_use]
    pub fn new(bin_dirs: Vec<PathBuf>) -> Self {
        Self {
            bin_dirs,
            chains: Semaphore::new(CHAINS_MAX),
        }
    }

    /// Connects a namespace: the same attachment with what the plugins answered. Before it, the
    /// attachment is put where it outlives this process.
    ///
    /// # Errors
    /// Whatever a plugin says. What was made by then is taken away by [`Client::delete`].
    pub async fn add(&self, attachment: &Attachment) -> Result<Attachment, Error> {
        let network = &attachment.network;
        self.bounded(network, Verb::Add, async {
            let mut made = attachment.clone();
            made.result = None;
            for (plugin, program) in self.programs(network)? {
                let run = self.run_for(&made, Verb::Add, plugin, program, made.result.as_ref());
                let answer = answer::parse(&run.run().await?, network.version);
                made.result = Some(answer.map_err(|reason| run.failed(reason))?);
                point!("cni.one-added");
            }
            made.addresses = addresses(&made)?;
            point!("cni.added");
            Ok(made)
        })
        .await
    }

    /// Asks whether a namespace is connected as it was when it was added. Networks of a version without
    /// CHECK, and those that do not want it, are taken to be as they should.
    ///
    /// # Errors
    /// What a plugin misses.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let network = &attachment.network;
        let Some(result) = &attachment.result else {
            return Ok(());
        };
        if network.disable_check || !network.version.has_check() {
            return Ok(());
        }
        self.bounded(network, Verb::Check, async {
            for (plugin, program) in self.programs(network)? {
                let run = self.run_for(attachment, Verb::Check, plugin, program, Some(result));
                run.run().await?;
            }
            Ok(())
        })
        .await
    }

    /// Takes a namespace off the network, whatever of it was made. May be repeated.
    ///
    /// # Errors
    /// What the first plugin says that fails: those that are asked after it, because they were added
    /// before, have to keep what it still uses.
    pub async fn delete(&self, attachment: &Attachment) -> Result<(), Error> {
        let network = &attachment.network;
        let told = network.version.deletes_by_result();
        let result = attachment.result.as_ref().filter(|_| told);
        self.bounded(network, Verb::Delete, async {
            for (plugin, program) in self.programs(network)?.into_iter().rev() {
                let run = self.run_for(attachment, Verb::Delete, plugin, program, result);
                run.run().await?;
                point!("cni.one-deleted");
            }
            Ok(())
        })
        .await
    }

    /// Has plugins take away what belongs to none of the attachments given. Networks of a version
    /// without GC, and those that do not want it, keep what they have.
    ///
    /// # Errors
    /// What the first plugin says that fails; all are asked.
    pub async fn collect_garbage(
        &self,
        network: &Network,
        valid: &[&Attachment],
    ) -> Result<(), Error> {
        if network.disable_gc || !network.version.has_gc_and_status() {
            return Ok(());
        }
        let valid: Value = valid
            .iter()
            .map(|a| json!({ "containerID": a.container_id, "ifname": a.interface }))
            .collect();
        let more = Map::from_iter([
            // The first plugins with GC know the list by the second name, as libcni gave it to them.
            ("cni.dev/valid-attachments".to_owned(), valid.clone()),
            ("cni.dev/attachments".to_owned(), valid),
        ]);
        self.bounded(network, Verb::CollectGarbage, async {
            let mut outcome = Ok(());
            for (plugin, program) in self.programs(network)? {
                let run = self.run_without(network, Verb::CollectGarbage, plugin, program, &more);
                let done = run.run().await.map(drop);
                outcome = outcome.and(done);
            }
            outcome
        })
        .await
    }

    /// Asks whether namespaces can be added. Plugins of a version without STATUS are ready when they
    /// are installed.
    ///
    /// # Errors
    /// Why not.
    pub async fn status(&self, network: &Network) -> Result<(), Error> {
        let programs = self.programs(network)?;
        if !network.version.has_gc_and_status() {
            return Ok(());
        }
        self.bounded(network, Verb::Status, async {
            for (plugin, program) in programs {
                let run = self.run_without(network, Verb::Status, plugin, program, &Map::new());
                run.run().await?;
            }
            Ok(())
        })
        .await
    }

    /// Whether all plugins are installed.
    ///
    /// # Errors
    /// [`Error::NoPlugin`].
    pub fn require(&self, network: &Network) -> Result<(), Error> {
        self.programs(network).map(drop)
    }

    /// All plugins with their programs: nothing is begun with one that is not there.
    fn programs<'a>(&self, network: &'a Network) -> Result<Vec<(&'a Plugin, PathBuf)>, Error> {
        let find =
            |plugin: &'a Plugin| Ok((plugin, plugin::find(plugin_type(plugin), &self.bin_dirs)?));
        network.plugins().iter().map(find).collect()
    }

    async fn bounded<T>(
        &self,
        network: &Network,
        verb: Verb,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let after = timeout(verb);
        let in_turn = async {
            let _turn = self.chains.acquire().await;
            work.await
        };
        let timed_out = |_| Error::TimedOut {
            network: network.name.clone(),
            verb,
            after,
        };
        tokio::time::timeout(after, in_turn)
            .await
            .unwrap_or_else(|elapsed| Err(timed_out(elapsed)))
    }

    fn run_for<'a>(
        &self,
        attachment: &Attachment,
        verb: Verb,
        plugin: &'a Plugin,
        program: PathBuf,
        previous: Option<&Value>,
    ) -> Run<'a> {
        let mut more = Map::new();
        let runtime_config = attachment.runtime_config(plugin);
        if !runtime_config.is_empty() {
            more.insert("runtimeConfig".to_owned(), runtime_config.into());
        }
        if let Some(previous) = previous {
            more.insert("prevResult".to_owned(), previous.clone());
        }
        let netns = netns(&attachment.netns, verb);
        let mut run = self.run_without(&attachment.network, verb, plugin, program, &more);
        run.environment.extend([
            ("CNI_CONTAINERID", attachment.container_id.clone()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", attachment.interface.clone()),
            ("CNI_ARGS", attachment.args_text()),
        ]);
        run
    }

    /// A run that is about no namespace. `capabilities` stay in the configuration, though the
    /// specification has them removed: libcni leaves them, and plugins that delegate look at them.
    fn run_without<'a>(
        &self,
        network: &Network,
        verb: Verb,
        plugin: &'a Plugin,
        program: PathBuf,
        more: &Map<String, Value>,
    ) -> Run<'a> {
        let mut config = plugin.clone();
        config.insert("cniVersion".to_owned(), json!(network.version));
        config.insert("name".to_owned(), json!(network.name));
        config.extend(more.clone());
        Run {
            plugin: plugin_type(plugin),
            program,
            verb,
            environment: vec![("CNI_PATH", plugin::search_path(&self.bin_dirs))],
            config: Value::Object(config).to_string().into_bytes(),
            timeout: timeout(verb),
        }
    }
}

fn addresses(made: &Attachment) -> Result<Vec<ipnet::IpNet>, Error> {
    let network = &made.network;
    let result = made.result.as_ref().unwrap_or(&Value::Null);
    let addresses = answer::addresses(result, network.version, &made.interface);
    addresses.map_err(|reason| Error::Failed {
        plugin: network.plugin_types().last().unwrap_or_default().to_owned(),
        verb: Verb::Add,
        reason,
    })
}

/// `CNI_NETNS`. DEL comes for namespaces that are gone, too, and is then told of none.
fn netns(path: &Path, verb: Verb) -> String {
    match verb == Verb::Delete && !is_namespace(path) {
        true => String::new(),
        false => path.display().to_string(),
    }
}

/// Whether a namespace is bound to a file; the file is left without one when the host is restarted.
fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

#[cfg(test)]
mod tests;
