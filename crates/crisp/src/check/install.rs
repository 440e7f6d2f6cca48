//! crisp itself: its configuration, its shim, and whether a daemon answers.

use super::Finding;
use crate::client::{Client, Target, block_on};
use anyhow::Result;
use crisp_engine::Config;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The program headers of a program are in its first bytes.
const HEADER_BYTES_MAX: u64 = 64 << 10;

pub(super) fn findings(
    configured: &Result<Config>,
    config: &Config,
    target: &Target,
) -> Vec<Finding> {
    vec![
        configuration(configured),
        shim(&config.shim_path()),
        daemon(target),
    ]
}

fn configuration(configured: &Result<Config>) -> Finding {
    let subject = "configuration";
    match configured {
        Ok(config) if *config == Config::default() => Finding::fine(subject, "the default one"),
        Ok(_) => Finding::fine(subject, "valid"),
        Err(error) => Finding::missing(
            subject,
            format!("{error:#}"),
            "the daemon does not start; what stands here is about the default configuration",
            "correct it; `crisp config default` explains every setting",
        ),
    }
}

fn shim(path: &Path) -> Finding {
    let subject = "crisp-shim";
    match linkage(path) {
        Ok(Linkage::Static) => Finding::fine(subject, format!("{}, static", path.display())),
        Ok(Linkage::Dynamic) => Finding::note(
            subject,
            format!("{} is not static", path.display()),
            "each pod takes ten times the memory, and its processes depend on the host's libraries",
            "build it with hack/build.sh",
        ),
        Err(error) => Finding::missing(
            subject,
            format!("{}: {error}", path.display()),
            "no pod can be started",
            "install crisp-shim beside crisp, or set shim_path",
        ),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Linkage {
    Static,
    Dynamic,
}

fn linkage(path: &Path) -> io::Result<Linkage> {
    if fs::metadata(path)?.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::other("is not executable"));
    }
    let mut header = Vec::new();
    File::open(path)?
        .take(HEADER_BYTES_MAX)
        .read_to_end(&mut header)?;
    linkage_of(&header).ok_or_else(|| io::Error::other("is no program of this machine"))
}

/// A program is dynamic when it names its loader (elf(5), PT_INTERP).
fn linkage_of(elf: &[u8]) -> Option<Linkage> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_ne_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(elf.get(at..at + 8)?.try_into().ok()?));
    // ELFCLASS64; 32-bit machines are none of ours.
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = usize::try_from(long(32)?).ok()?;
    let (size, number) = (usize::from(half(54)?), usize::from(half(56)?));
    for index in 0..number {
        let at = table.checked_add(index * size)?;
        if word(at)? == PT_INTERP {
            return Some(Linkage::Dynamic);
        }
    }
    Some(Linkage::Static)
}

fn daemon(target: &Target) -> Finding {
    let asked = target.socket().and_then(|socket| {
        let version = block_on(async { Client::connect(&socket).await?.version().await })?;
        Ok((socket, version))
    });
    match asked {
        Ok((socket, version)) => Finding::fine(
            "daemon",
            format!(
                "{} {} serves {}",
                version.runtime_name,
                version.runtime_version,
                socket.display()
            ),
        ),
        Err(error) => Finding::note(
            "daemon",
            "does not answer",
            "commands about pods and images have nobody to ask",
            format!("{error:#}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one program header of this type.
    fn elf(program_header: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_ne_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_ne_bytes());
        bytes[64..68].copy_from_slice(&program_header.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_program_with_a_loader_is_dynamic() {
        assert_eq!(linkage_of(&elf(1)), Some(Linkage::Static));
        assert_eq!(linkage_of(&elf(3)), Some(Linkage::Dynamic));
        assert_eq!(linkage_of(b"#!/bin/sh\n"), None);
        let cut = &elf(1)[..65];
        assert_eq!(linkage_of(cut), None);
    }

    #[test]
    fn a_shim_that_is_not_there_is_missing() {
        assert!(shim(Path::new("/nonexistent/crisp-shim")).is_missing());
        assert!(
            shim(Path::new("/etc/passwd"))
                .fact
                .contains("not executable")
        );
    }

    #[test]
    fn a_broken_configuration_is_missing() {
        assert!(configuration(&Err(anyhow::anyhow!("line 2: no"))).is_missing());
        assert_eq!(
            configuration(&Ok(Config::default())).fact,
            "the default one"
        );
    }
}
