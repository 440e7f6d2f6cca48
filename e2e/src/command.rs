//! Command lines against a node: the field's, and crisp's own.

use crate::node::Node;
use crate::tools;
use anyhow::{Result, ensure};
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// None: a signal ended it.
    pub code: Option<i32>,
}

impl Node {
    /// Runs crictl against the daemon.
    ///
    /// # Errors
    /// crictl fails; the message has what it printed.
    pub async fn crictl(&self, arguments: &[&str]) -> Result<Output> {
        let endpoint = format!("unix://{}", self.socket().display());
        let mut crictl = Command::new(tools::program("tools/bin/crictl"));
        crictl.args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ]);
        crictl.args(["--timeout", "60s"]).args(arguments);
        let output = run(&mut crictl).await?;
        let arguments = arguments.join(" ");
        ensure!(output.code == Some(0), "crictl {arguments}: {output:?}");
        Ok(output)
    }

    /// Runs the daemon's own command line against it.
    ///
    /// # Errors
    /// The command cannot be started.
    pub async fn crisp(&self, arguments: &[&str]) -> Result<Output> {
        run(self.crisp_command(arguments).stdin(Stdio::null())).await
    }

    /// The same, with a file as its standard input.
    ///
    /// # Errors
    /// The command cannot be started, or there is no such file.
    pub async fn crisp_with_input(&self, arguments: &[&str], input: &Path) -> Result<Output> {
        run(self.crisp_command(arguments).stdin(File::open(input)?)).await
    }

    fn crisp_command(&self, arguments: &[&str]) -> Command {
        let mut crisp = Command::new(tools::program("dist/crisp"));
        crisp
            .arg("--config")
            .arg(self.config_path())
            .args(arguments);
        crisp
    }
}

async fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().await?;
    Ok(Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}
