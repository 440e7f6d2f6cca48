//! `crisp pod run`: the pods of a manifest, started, and waited for when asked to.

use super::start::{self, Started};
use super::{exit_code, volumes};
use crate::client::{Client, Target};
use crate::manifest::{self, Host, Pod};
use crate::output;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run the pods of a Kubernetes Pod manifest.
///
/// Fields that crisp cannot fulfil are refused, all at once. Containers without a seccompProfile get
/// RuntimeDefault, as from a kubelet with seccompDefault; say `type: Unconfined` to be without.
/// Containers are not restarted. When anything fails, all that was started is removed.
///
/// Prints a line for each pod: namespace/name, id and address.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The manifest, YAML or JSON, of one or several documents; - is standard input.
    file: PathBuf,
    /// Wait until all containers have ended, and end with the first exit code that is not zero.
    #[arg(long)]
    wait: bool,
    /// Remove the pods once their containers have ended.
    #[arg(long, requires = "wait")]
    rm: bool,
    /// Where the logs of pods go.
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    log_dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    let parsed = manifest::parse(&read(&arguments.file)?).with_context(|| name(&arguments.file))?;
    parsed
        .notes
        .iter()
        .for_each(|note| output::note(format_args!("note: {note}")));
    let pods: Vec<Pod> = parsed
        .pods
        .into_iter()
        .map(with_uid)
        .collect::<Result<_>>()?;
    Client::with(target, async |client| {
        let host = host(&client, &arguments.log_dir).await?;
        let started = start::all(&client, &pods, &host).await?;
        for Started {
            name, id, address, ..
        } in &started
        {
            output::line(format_args!("{name} {id} {address}").to_string().trim_end())?;
        }
        match arguments.wait {
            true => wait(&client, arguments, &pods, &host, &started).await,
            false => Ok(ExitCode::SUCCESS),
        }
    })
}

fn name(file: &Path) -> String {
    match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text),
        false => File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.with_context(|| format!("reading {}", name(file)))?;
    Ok(text)
}

/// As the API server gives it to pods.
fn with_uid(mut pod: Pod) -> Result<Pod> {
    if pod.metadata.uid.is_empty() {
        let uid = read(Path::new("/proc/sys/kernel/random/uuid"))?;
        pod.metadata.uid = uid.trim().to_owned();
    }
    Ok(pod)
}

async fn host(client: &Client, log_dir: &Path) -> Result<Host> {
    let log_dir = std::path::absolute(log_dir).context("--log-dir")?;
    let meminfo = read(Path::new("/proc/meminfo"))?;
    Ok(Host {
        log_dir,
        volumes_dir: volumes::directory(&client.directories().await?),
        memory_bytes: memory_bytes(&meminfo).context("/proc/meminfo tells no MemTotal")?,
        resolv_conf: read(Path::new("/etc/resolv.conf")).unwrap_or_default(),
    })
}

/// Of proc_meminfo(5), which counts in KiB.
fn memory_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Waits for the end of all containers; the answer is the first exit code that is not zero.
async fn wait(
    client: &Client,
    arguments: &Arguments,
    pods: &[Pod],
    host: &Host,
    started: &[Started],
) -> Result<ExitCode> {
    let mut code = 0;
    for pod in started {
        for (name, id) in &pod.containers {
            let ended = start::ended(client, id).await?;
            if ended.exit_code != 0 {
                output::note(format_args!(
                    "{}/{name} {}",
                    pod.name,
                    start::how_it_ended(&ended)
                ));
            }
            code = if code == 0 { ended.exit_code } else { code };
        }
    }
    if arguments.rm {
        start::undo(client, pods, host).await?;
    }
    Ok(exit_code(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_memory_is_told_in_bytes() {
        assert_eq!(
            memory_bytes("MemTotal:       8000 kB\nMemFree: 1 kB\n"),
            Some(8_192_000)
        );
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
    }
}
