//! The files that a pod's containers find in /etc: hosts, hostname and resolv.conf.

use crate::error::{Error, Result};
use crate::selinux::label_own;
use crisp_model::spec::PodFiles;
use crisp_model::{ContainerLabels, DnsConfig, PodConfig};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where they are below the pod's runtime directory.
pub(crate) fn paths(run_dir: &Path) -> PodFiles {
    PodFiles {
        hosts: run_dir.join("hosts"),
        hostname: run_dir.join("hostname"),
        resolv_conf: run_dir.join("resolv.conf"),
    }
}

/// Writes them, and labels them for the pod's containers.
pub(super) fn make(
    run_dir: &Path,
    config: &PodConfig,
    hostname: &str,
    labels: Option<&ContainerLabels>,
) -> Result<()> {
    write(run_dir, config, hostname)?;
    labels.map_or(Ok(()), |labels| label(run_dir, &labels.files.to_string()))
}

fn write(run_dir: &Path, config: &PodConfig, hostname: &str) -> Result<()> {
    let files = paths(run_dir);
    put(&files.hosts, &of_host("/etc/hosts")?)?;
    put(&files.hostname, format!("{hostname}\n").as_bytes())?;
    let resolv_conf = match &config.dns {
        Some(dns) => resolv_conf(dns)?.into_bytes(),
        None => of_host("/etc/resolv.conf")?,
    };
    put(&files.resolv_conf, &resolv_conf)
}

fn put(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).map_err(Error::io("write", path))?;
    // Readable by whatever user a container runs as.
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(Error::io("chmod", path))
}

/// A file of the host; a host without it has nothing to say.
fn of_host(path: &str) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(Error::io("read", path)),
    }
}

/// resolv.conf(5) text.
fn resolv_conf(dns: &DnsConfig) -> Result<String> {
    let mut text = String::new();
    let mut line = |word: &str, values: &[String]| -> Result<()> {
        if let Some(bad) = values.iter().find(|v| v.contains(['\n', '\0'])) {
            return Err(Error::invalid(
                "dns_config",
                format!("{bad:?} contains a line break"),
            ));
        }
        text.push_str(&format!("{word} {}\n", values.join(" ")));
        Ok(())
    };
    if !dns.searches.is_empty() {
        line("search", &dns.searches)?;
    }
    for server in &dns.servers {
        line("nameserver", std::slice::from_ref(server))?;
    }
    if !dns.options.is_empty() {
        line("options", &dns.options)?;
    }
    Ok(text)
}

fn label(run_dir: &Path, label: &str) -> Result<()> {
    let PodFiles {
        hosts,
        hostname,
        resolv_conf,
    } = paths(run_dir);
    [hosts, hostname, resolv_conf]
        .iter()
        .try_for_each(|file| label_own(file, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_configuration_becomes_resolv_conf() {
        let mut dns = DnsConfig {
            servers: vec!["10.0.0.10".into(), "8.8.8.8".into()],
            searches: vec!["a.b".into(), "c".into()],
            options: vec!["ndots:5".into()],
        };
        let text = "search a.b c\nnameserver 10.0.0.10\nnameserver 8.8.8.8\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns).unwrap(), text);
        dns.servers.push("1.1.1.1\nsearch evil".into());
        assert!(resolv_conf(&dns).is_err());
    }
}
