//! critest itself: the process, and the digest it has to ask for.

use anyhow::{Result, ensure};
use crisp_e2e::ginkgo::run_suite;
use crisp_e2e::{Digest, tools};
use memchr::memmem::Finder;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// What critest asks for as `gcr.io/k8s-staging-cri-tools/test-image-digest@sha256:…`
/// (cri-tools, pkg/validate/consts.go).
const PUBLIC_DIGEST: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

/// How the suite is run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) focus: Option<String>,
    pub(crate) skip: Option<String>,
    pub(crate) seed: Option<String>,
    pub(crate) handler: Option<String>,
    pub(crate) parallel: Option<String>,
    pub(crate) transport: Transport,
}

/// What exec, attach and port-forward are spoken over.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Transport {
    #[default]
    Spdy,
    WebSocket,
}

/// A copy of critest that asks for an image by the digest that it has here.
#[derive(Debug)]
pub(crate) struct Suite {
    program: PathBuf,
    /// Where its specs keep the volumes and logs of their pods.
    temporary: PathBuf,
}

impl Suite {
    pub(crate) fn prepare(dir: &Path, digest: &Digest) -> Result<Self> {
        let mut program = fs::read(tools::program("tools/bin/critest"))?;
        let finder = Finder::new(PUBLIC_DIGEST);
        let places: Vec<usize> = finder.find_iter(&program).collect();
        ensure!(!places.is_empty(), "this critest pulls no image by digest");
        for place in places {
            program[place..][..PUBLIC_DIGEST.len()].copy_from_slice(digest.hex().as_bytes());
        }
        let suite = Self {
            program: dir.join("critest"),
            temporary: dir.join("tmp"),
        };
        fs::write(&suite.program, program)?;
        fs::set_permissions(&suite.program, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(&suite.temporary)?;
        Ok(suite)
    }

    /// Runs it to its end in a directory of its own, where it leaves `report.json` and what it printed.
    pub(crate) async fn run(&self, endpoint: &str, options: &Options, dir: &Path) -> Result<()> {
        let mut critest = Command::new(&self.program);
        critest
            .args(["-runtime-endpoint", endpoint, "-config", "/dev/null"])
            .args(["-ginkgo.no-color", "-ginkgo.json-report", "report.json"])
            .args(options.flags())
            .env("PATH", path_with_tools()?)
            .env("TMPDIR", &self.temporary)
            .current_dir(dir);
        run_suite(critest, &dir.join("critest.log")).await
    }
}

impl Options {
    fn flags(&self) -> Vec<String> {
        let values = [
            ("-ginkgo.focus", &self.focus),
            ("-ginkgo.skip", &self.skip),
            ("-ginkgo.seed", &self.seed),
            ("-runtime-handler", &self.handler),
            ("-parallel", &self.parallel),
        ];
        let mut flags: Vec<String> = values
            .into_iter()
            .filter_map(|(flag, value)| Some([flag.to_owned(), value.clone()?]))
            .flatten()
            .collect();
        if let Transport::WebSocket = self.transport {
            let flagged =
                ["exec", "attach", "portforward"].map(|what| format!("-websocket-{what}"));
            flags.extend(flagged);
        }
        flags
    }
}

/// critest looks for ginkgo there.
fn path_with_tools() -> Result<OsString> {
    let ginkgo = tools::program("tools/bin/ginkgo");
    let tools = ginkgo.parent().map(Path::to_owned);
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let all = tools.into_iter().chain(std::env::split_paths(&usual));
    Ok(std::env::join_paths(all)?)
}
