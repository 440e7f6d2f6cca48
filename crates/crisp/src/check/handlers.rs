//! Runtime handlers: whether the programs of those that have one can be run.

use super::Finding;
use crisp_engine::Config;
use nix::unistd::{AccessFlags, access};

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let handlers = config.handlers.iter().filter_map(|(name, settings)| {
        let program = settings.command.as_ref()?;
        let shown = format!("{name}: {}", program.display());
        Some(match access(program, AccessFlags::X_OK) {
            Ok(()) => Finding::fine("runtime handler", shown),
            Err(errno) => Finding::note(
                "runtime handler",
                format!("{shown}: {}", errno.desc()),
                "pods that ask for this handler are refused",
                format!("install it, or correct handlers.{name}.command"),
            ),
        })
    });
    handlers.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use std::path::Path;

    #[test]
    fn a_program_that_is_missing_is_named() {
        let text = "[handlers.a]\n[handlers.b]\ncommand = \"/bin/sh\"\n[handlers.c]\ncommand = \"/no/such\"\n";
        let config = Config::parse(text, Path::new("/x.toml")).unwrap();
        let findings = findings(&config);
        assert_eq!(findings[0].verdict, Verdict::Fine);
        assert!(
            findings[1].fact.starts_with("c: /no/such: "),
            "{findings:?}"
        );
        assert_eq!(findings.len(), 2);
    }
}
