//! The descriptions of all directories, and what they say of devices by name.

use crate::Error;
use crate::description::{Description, Edits, RawEdits};
use crisp_sys::file::read_text_bounded;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest file; those for a machine full of accelerators have some 100 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Files in one directory; what is beyond is not read.
const FILES_MAX: usize = 1024;

/// What a container with these devices (`vendor/class=name`) gets. A description in a later directory
/// counts more than one in an earlier. What a file says for all its devices comes once, before what it
/// says for the first of them. Blocks.
///
/// # Errors
/// If one of the devices cannot be had.
pub fn edits(dirs: &[PathBuf], names: &[String]) -> Result<Edits, Error> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let library = Library::read(dirs);
    let mut edits = Edits::default();
    let mut general = HashSet::new();
    for name in names {
        let found = library.find(name)?;
        if general.insert(&found.file.path) {
            add(
                &mut edits,
                name,
                found.file,
                &found.file.description.container_edits,
            )?;
        }
        add(&mut edits, name, found.file, found.edits)?;
    }
    Ok(edits)
}

fn add(edits: &mut Edits, name: &str, file: &Described, more: &RawEdits) -> Result<(), Error> {
    if let Some(what) = more.unsupported() {
        return Err(Error::Unsupported {
            name: name.to_owned(),
            what,
            file: file.path.clone(),
        });
    }
    edits.add(more.clone());
    Ok(())
}

struct Library<'a> {
    dirs: &'a [PathBuf],
    files: Vec<Described>,
    /// Files that cannot be used, and why.
    unusable: Vec<String>,
}

struct Described {
    path: PathBuf,
    /// The place of its directory among all.
    priority: usize,
    description: Description,
}

struct Found<'a> {
    file: &'a Described,
    edits: &'a RawEdits,
}

impl<'a> Library<'a> {
    fn read(dirs: &'a [PathBuf]) -> Self {
        let mut library = Self {
            dirs,
            files: Vec::new(),
            unusable: Vec::new(),
        };
        for (priority, dir) in dirs.iter().enumerate() {
            match files(dir) {
                Ok(paths) => {
                    for path in paths {
                        library.add(path, priority);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => library.unusable.push(format!("{}: {error}", dir.display())),
            }
        }
        library
    }

    fn add(&mut self, path: PathBuf, priority: usize) {
        let text = read_text_bounded(&path, FILE_BYTES_MAX).map_err(|error| error.to_string());
        match text.and_then(|text| Description::parse(&text, &path)) {
            Ok(description) => self.files.push(Described {
                path,
                priority,
                description,
            }),
            Err(reason) => self.unusable.push(format!("{}: {reason}", path.display())),
        }
    }

    fn find(&self, name: &str) -> Result<Found<'_>, Error> {
        let all: Vec<Found<'_>> = self
            .files
            .iter()
            .flat_map(|file| of_file(file, name))
            .collect();
        let highest = all.iter().map(|found| found.file.priority).max();
        let mut best: Vec<Found<'_>> = all
            .into_iter()
            .filter(|found| Some(found.file.priority) == highest)
            .collect();
        match (best.pop(), best.is_empty()) {
            (None, _) => Err(Error::Unknown {
                name: name.to_owned(),
                dirs: self.dirs.to_vec(),
                unusable: self.unusable.clone(),
            }),
            (Some(found), true) => Ok(found),
            (Some(last), false) => Err(Error::Conflict {
                name: name.to_owned(),
                files: best
                    .iter()
                    .chain([&last])
                    .map(|found| found.file.path.clone())
                    .collect(),
            }),
        }
    }
}

fn of_file<'a>(file: &'a Described, name: &str) -> impl Iterator<Item = Found<'a>> {
    let device = name.split_once('=');
    let device = device
        .and_then(|(kind, device)| (kind == file.description.kind).then(|| device.to_owned()));
    let devices = file.description.devices.iter();
    devices
        .filter(move |described| device.as_deref() == Some(described.name.as_str()))
        .map(move |described| Found {
            file,
            edits: &described.container_edits,
        })
}

/// The files of a directory that are descriptions by their names, in the order of these.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("json" | "yaml")) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.truncate(FILES_MAX);
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HookPoint;
    use tempfile::TempDir;

    const YAML: &str = "
cdiVersion: \"0.8.0\"
kind: vendor.example/gpu
annotations: {a: b}
containerEdits:
  env: [ALL=1]
devices:
  - name: \"0\"
    containerEdits:
      env: [GPU=0]
      hooks:
        - {hookName: createContainer, path: /bin/ctk, args: [ctk, hook], env: [A=b], timeout: 5}
      additionalGids: [44]
      deviceNodes:
        - {path: /dev/gpu0, hostPath: /dev/null, permissions: rw, fileMode: 384}
      mounts:
        - {hostPath: /lib/gpu, containerPath: /gpu, options: [ro, bind]}
  - name: \"1\"
    annotations: {c: d}
    containerEdits: {env: [GPU=1]}
";

    struct Dirs(TempDir, Vec<PathBuf>);

    impl Dirs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let dirs = ["low", "high", "missing"].map(|name| dir.path().join(name));
            fs::create_dir(&dirs[0]).unwrap();
            fs::create_dir(&dirs[1]).unwrap();
            Self(dir, dirs.to_vec())
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.0.path().join(path), text).unwrap();
        }

        fn edits(&self, names: &[&str]) -> Result<Edits, Error> {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            edits(&self.1, &names)
        }

        fn refusal(&self, name: &str) -> String {
            self.edits(&[name]).unwrap_err().to_string()
        }
    }

    fn json(env: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.3.0", "kind": "vendor.example/gpu", "devices":
            [{{"name": "1", "containerEdits": {{"env": ["{env}"]}}}}]}}"#
        )
    }

    #[test]
    fn devices_give_what_their_file_says_for_all_and_for_each() {
        let dirs = Dirs::new();
        dirs.write("low/gpu.yaml", YAML);
        let edits = dirs
            .edits(&["vendor.example/gpu=1", "vendor.example/gpu=0"])
            .unwrap();
        assert_eq!(edits.env, ["ALL=1", "GPU=1", "GPU=0"]);
        assert_eq!(edits.additional_gids, [44]);
        let node = &edits.device_nodes[0];
        assert_eq!(node.host_path.as_deref(), Some("/dev/null"));
        assert_eq!((node.file_mode, node.uid), (Some(0o600), None));
        assert_eq!(edits.mounts[0].options, ["ro", "bind"]);
        let hook = &edits.hooks[0];
        assert_eq!(hook.point, HookPoint::CreateContainer);
        assert_eq!(hook.args, ["ctk", "hook"]);
        assert_eq!(hook.timeout_s, Some(5));
    }

    #[test]
    fn a_later_directory_counts_more_and_changes_count_at_once() {
        let dirs = Dirs::new();
        dirs.write("low/gpu.yaml", YAML);
        dirs.write("high/other.json", &json("GPU=high"));
        let env = || dirs.edits(&["vendor.example/gpu=1"]).unwrap().env;
        assert_eq!(env(), ["GPU=high"]);
        dirs.write("high/other.json", &json("GPU=changed"));
        assert_eq!(env(), ["GPU=changed"]);
        dirs.write("high/more.json", &json("GPU=twice"));
        let refusal = dirs.refusal("vendor.example/gpu=1");
        assert!(
            refusal.contains("more.json") && refusal.contains("other.json"),
            "{refusal}"
        );
    }

    #[test]
    fn an_unknown_device_is_refused_with_where_it_was_looked_for() {
        let dirs = Dirs::new();
        dirs.write("low/gpu.yaml", YAML);
        dirs.write("low/ignored.txt", "x");
        for (name, text, what) in [
            ("new", "cdiVersion: 9.0.0\nkind: a/b\ndevices: []", "9.0.0"),
            (
                "kind",
                "cdiVersion: 0.5.0\nkind: ab\ndevices: []",
                "vendor/class",
            ),
            (
                "point",
                "cdiVersion: 0.5.0\nkind: a/b\ndevices: []\n\
                 containerEdits: {hooks: [{hookName: never, path: /x}]}",
                "never",
            ),
            (
                "typo",
                "cdiVersion: 0.5.0\nkind: a/b\ndevicez: []",
                "devicez",
            ),
        ] {
            dirs.write(&format!("high/{name}.yaml"), text);
            for device in ["vendor.example/gpu=2", "vendor.example/nic=0", "gpu"] {
                let refusal = dirs.refusal(device);
                for part in [device, "low", "missing", name, what] {
                    assert!(refusal.contains(part), "{part} is not in {refusal}");
                }
            }
        }
        assert!(dirs.edits(&["vendor.example/gpu=0"]).is_ok());
    }

    #[test]
    fn what_no_container_can_have_is_refused_and_not_left_out() {
        let dirs = Dirs::new();
        for (edits, what) in [
            ("intelRdt: {closID: x}", "RDT"),
            ("netDevices: [{hostInterfaceName: a, name: b}]", "network"),
        ] {
            for place in ["", "  "] {
                let (general, own) = match place {
                    "" => (edits, "env: []"),
                    _ => ("env: []", edits),
                };
                dirs.write(
                    "low/x.yaml",
                    &format!(
                        "cdiVersion: 1.1.0\nkind: a.b/c\ncontainerEdits: {{{general}}}\n\
                         devices: [{{name: x, containerEdits: {{{own}}}}}]"
                    ),
                );
                let refusal = dirs.refusal("a.b/c=x");
                assert!(
                    refusal.contains(what) && refusal.contains("x.yaml"),
                    "{refusal}"
                );
            }
        }
    }
}
