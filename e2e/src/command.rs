//! Command lines against a node: the field's, and crisp's own.

use crate::node::Node;
use crate::terminal::Terminal;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// None: a signal ended it.
    pub code: Option<i32>,
}

/// A crictl that forwards a port; it ends when dropped.
#[derive(Debug)]
pub struct Forward {
    pub crictl: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// It tells of each connection, and would end if nobody could hear it.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Node {
    /// Runs crictl against the daemon.
    ///
    /// # Errors
    /// crictl fails; the message has what it printed.
    pub async fn crictl(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.try_crictl(arguments).await?;
        let arguments = arguments.join(" ");
        ensure!(output.code == Some(0), "crictl {arguments}: {output:?}");
        Ok(output)
    }

    /// The same, whatever comes of it.
    ///
    /// # Errors
    /// crictl cannot be started.
    pub async fn try_crictl(&self, arguments: &[&str]) -> Result<Output> {
        run(self.crictl_command(arguments).stdin(Stdio::null())).await
    }

    /// Starts crictl with pipes for its streams; it is killed when dropped.
    ///
    /// # Errors
    /// crictl cannot be started.
    pub fn start_crictl(&self, arguments: &[&str]) -> Result<Child> {
        let mut crictl = self.crictl_command(arguments);
        crictl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(crictl.kill_on_drop(true).spawn()?)
    }

    /// The same, to its end, with a text as its standard input.
    ///
    /// # Errors
    /// crictl fails.
    pub async fn crictl_with_input(&self, arguments: &[&str], input: &str) -> Result<()> {
        let output = self.try_crictl_with_input(arguments, input).await?;
        ensure!(output.code == Some(0), "crictl {arguments:?}: {output:?}");
        Ok(())
    }

    /// The same, whatever comes of it.
    ///
    /// # Errors
    /// crictl cannot be started.
    pub async fn try_crictl_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        fed(self.start_crictl(arguments)?, input).await
    }

    /// Starts crictl on a terminal of its own.
    ///
    /// # Errors
    /// crictl cannot be started.
    pub fn crictl_on_terminal(&self, arguments: &[&str]) -> Result<Terminal> {
        Terminal::open(self.crictl_command(arguments).as_std())
    }

    /// Has crictl forward a free local port to a port of a pod.
    ///
    /// # Errors
    /// crictl fails.
    pub async fn crictl_forward(&self, arguments: &[&str]) -> Result<Forward> {
        let mut arguments = arguments.to_vec();
        arguments.insert(0, "port-forward");
        let mut crictl = self.start_crictl(&arguments)?;
        let stdout = crictl.stdout.take().context("its output is a pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            let address = line
                .strip_prefix("Forwarding from ")
                .and_then(|rest| rest.split(' ').next()?.parse().ok());
            if let Some(address) = address {
                return Ok(Forward {
                    crictl,
                    address,
                    _output: lines,
                });
            }
        }
        bail!("{:?}", crictl.wait_with_output().await?)
    }

    fn crictl_command(&self, arguments: &[&str]) -> Command {
        let endpoint = format!("unix://{}", self.socket().display());
        let mut crictl = Command::new(tools::program("tools/bin/crictl"));
        crictl.args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ]);
        crictl.args(["--timeout", "60s"]).args(arguments);
        crictl
    }

    /// Runs the daemon's own command line against it.
    ///
    /// # Errors
    /// The command fails; the message has what it printed.
    pub async fn crisp(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.try_crisp(arguments).await?;
        ensure!(output.code == Some(0), "crisp {arguments:?}: {output:?}");
        Ok(output)
    }

    /// The same, whatever comes of it.
    ///
    /// # Errors
    /// The command cannot be started.
    pub async fn try_crisp(&self, arguments: &[&str]) -> Result<Output> {
        run(self.crisp_command(arguments).stdin(Stdio::null())).await
    }

    /// Runs it with a file as its standard input.
    ///
    /// # Errors
    /// The command fails, or there is no such file.
    pub async fn crisp_with_input(&self, arguments: &[&str], input: &Path) -> Result<()> {
        let output = run(self.crisp_command(arguments).stdin(File::open(input)?)).await?;
        ensure!(output.code == Some(0), "crisp {arguments:?}: {output:?}");
        Ok(())
    }

    /// Starts the daemon's own command line on a terminal of its own.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn crisp_on_terminal(&self, arguments: &[&str]) -> Result<Terminal> {
        Terminal::open(self.crisp_command(arguments).as_std())
    }

    /// Runs it without any input, with its standard output in a new file.
    ///
    /// # Errors
    /// The command fails, or the file cannot be made.
    pub async fn crisp_with_output(&self, arguments: &[&str], output: &Path) -> Result<()> {
        let mut crisp = self.crisp_command(arguments);
        crisp
            .stdin(Stdio::null())
            .stdout(File::create(output)?)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = Output::from(crisp.spawn()?.wait_with_output().await?);
        ensure!(output.code == Some(0), "crisp {arguments:?}: {output:?}");
        Ok(())
    }

    /// Runs crisp under the name of one of containerd's programs, with a file as its standard input.
    ///
    /// # Errors
    /// The command cannot be started, or there is no such file.
    pub async fn as_containerd(
        &self,
        name: &str,
        arguments: &[&str],
        input: Option<&Path>,
    ) -> Result<Output> {
        let mut program = Command::new(tools::program("dist/crisp"));
        let input = match input {
            Some(path) => File::open(path)?.into(),
            None => Stdio::null(),
        };
        let called = program.arg0(name).args(arguments).stdin(input);
        run(called.env("CONTAINERD_ADDRESS", self.socket())).await
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

/// Runs a program that has pipes for its streams to its end, with a text as its standard input.
///
/// # Errors
/// Its input is no pipe.
pub async fn fed(mut child: Child, input: &str) -> Result<Output> {
    let mut stdin = child.stdin.take().context("its input is a pipe")?;
    let feed = async move {
        // One that has ended already says why.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    // What it prints is read meanwhile: it may answer each byte with one.
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    Ok(output?.into())
}

async fn run(command: &mut Command) -> Result<Output> {
    Ok(command.kill_on_drop(true).output().await?.into())
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }
}
