//! Asking an administrator's programs whether an image may be used, before any of it is unpacked.
//!
//! The interface is that of containerd's image verifiers, so that its programs serve here too: every file
//! in a directory is run as
//!
//! ```text
//! <program> -name <reference> -digest <digest> -stdin-media-type application/vnd.oci.descriptor.v1+json
//! ```
//!
//! with the OCI descriptor of what the reference means on standard input. Status 0 allows the image; any
//! other refuses it, for the reason on standard output. All have to allow it, and one that cannot be
//! asked does not.

use crate::error::with_causes;
use crate::manifest::Descriptor;
use crate::{Error, Reference};
use crisp_helper::{Helper, Output};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a verifier reads.
const DESCRIPTOR_MEDIA_TYPE: &str = "application/vnd.oci.descriptor.v1+json";
/// More files than this in all directories are a mistake.
const MAX_VERIFIERS: usize = 32;
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What one may write.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// How much of its reason is passed on, in characters.
const MAX_REASON_CHARS: usize = 1024;

/// The programs that an administrator wants to be asked.
#[derive(Debug)]
pub(crate) struct Verifiers(Vec<PathBuf>);

impl Verifiers {
    /// All files in the directories, in the order of their names. Blocks.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when a directory cannot be read, or there are too many files.
    pub(crate) fn find(dirs: &[PathBuf]) -> Result<Self, Error> {
        let mut programs = Vec::new();
        for dir in dirs {
            let mut found = files(dir).map_err(|error| invalid(dir, error.to_string()))?;
            found.sort();
            programs.append(&mut found);
            if programs.len() > MAX_VERIFIERS {
                let reason = format!("more than {MAX_VERIFIERS} image verifiers are too many");
                return Err(invalid(dir, reason));
            }
        }
        Ok(Self(programs))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks all of them about what the registry gave for the reference.
    ///
    /// # Errors
    /// [`Error::NotVerified`].
    pub(crate) async fn check(
        &self,
        reference: &Reference,
        found: &Descriptor,
    ) -> Result<(), Error> {
        for program in &self.0 {
            let refused = |reason: String| Error::NotVerified {
                reference: reference.to_string(),
                verifier: program.clone(),
                reason,
            };
            match question(program, reference, found).run().await {
                Ok(output) if output.status.success() => {}
                Ok(output) => return Err(refused(reason(&output))),
                Err(error) => return Err(refused(with_causes(&error))),
            }
        }
        Ok(())
    }
}

/// What in the directory may be a program; nothing if the directory is not there.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

fn invalid(dir: &Path, reason: String) -> Error {
    Error::InvalidConfig {
        path: dir.to_owned(),
        reason,
    }
}

fn question(program: &Path, reference: &Reference, found: &Descriptor) -> Helper {
    let name = reference.to_string();
    let args = [
        "-name",
        &name,
        "-digest",
        found.digest.as_str(),
        "-stdin-media-type",
        DESCRIPTOR_MEDIA_TYPE,
    ];
    Helper {
        program: program.to_owned(),
        args: args.map(OsString::from).to_vec(),
        env: Vec::new(),
        input: serde_json::to_vec(found).expect("strings and numbers always serialise"),
        timeout: TIMEOUT,
        max_output_bytes: MAX_OUTPUT_BYTES,
    }
}

/// What the verifier says, or how it ended when it says nothing.
fn reason(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim() {
        "" => output.status.to_string(),
        said => said.chars().take(MAX_REASON_CHARS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::testing::write_script;

    async fn check(dirs: &[PathBuf]) -> Result<(), Error> {
        let found = Descriptor {
            media_type: crate::manifest::OCI_INDEX.to_owned(),
            digest: Digest::of(b"index"),
            size_bytes: 5,
            platform: None,
            annotations: None,
        };
        let reference = "r.example/app:1".parse().unwrap();
        Verifiers::find(dirs)?.check(&reference, &found).await
    }

    #[tokio::test]
    async fn a_verifier_gets_name_digest_and_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let told = dir.path().join("told");
        let script = format!("echo \"$@\" > {0}; cat >> {0}", told.display());
        write_script(&bin.join("record"), &script);
        check(&[bin]).await.unwrap();
        let told = fs::read_to_string(told).unwrap();
        let digest = Digest::of(b"index");
        let (args, descriptor) = told.split_once('\n').unwrap();
        let args_wanted = format!(
            "-name r.example/app:1 -digest {digest} -stdin-media-type {DESCRIPTOR_MEDIA_TYPE}"
        );
        assert_eq!(args, args_wanted);
        let descriptor: serde_json::Value = serde_json::from_str(descriptor).unwrap();
        assert_eq!(descriptor["digest"], digest.as_str());
        assert_eq!(descriptor["size"], 5);
        assert_eq!(descriptor["mediaType"], crate::manifest::OCI_INDEX);
    }

    #[tokio::test]
    async fn one_refusal_is_enough_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        write_script(&dir.path().join("10-allow"), "exit 0");
        let second = dir.path().join("20-refuse");
        write_script(&second, "echo not signed by us; exit 1");
        match check(&[dir.path().to_owned()]).await {
            Err(Error::NotVerified {
                verifier, reason, ..
            }) => {
                assert_eq!((verifier, reason.as_str()), (second, "not signed by us"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_verifier_that_cannot_be_asked_refuses() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("no-program"), "text").unwrap();
        let error = check(&[dir.path().to_owned()]).await.unwrap_err();
        assert!(matches!(error, Error::NotVerified { .. }), "{error}");
    }

    #[tokio::test]
    async fn without_verifiers_everything_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        check(&[dir.path().to_owned(), dir.path().join("absent")])
            .await
            .unwrap();
    }

    #[test]
    fn too_many_files_are_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MAX_VERIFIERS {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let error = Verifiers::find(&[dir.path().to_owned()]).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
}
