//! kubectl, by the administrator of a cluster.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Output, Terminal, fed, tools};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Longer than anything that a check waits for.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a cluster is reached.
#[derive(Debug)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    namespace: String,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            namespace: "default".to_owned(),
        }
    }

    /// The same for a namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        Self {
            kubeconfig: self.kubeconfig.clone(),
            namespace: namespace.to_owned(),
        }
    }

    /// Has the namespace deleted with all that is in it, which takes a while.
    pub(crate) async fn delete_namespace(self) -> Result<()> {
        let delete = format!("delete namespace {} --wait=false", self.namespace);
        self.run(&delete).await.map(drop)
    }

    /// Runs it with arguments that have no spaces inside; it has to succeed.
    pub(crate) async fn run(&self, line: &str) -> Result<String> {
        let arguments: Vec<&str> = line.split_ascii_whitespace().collect();
        self.run_with(&arguments, "").await
    }

    /// The same with any arguments, and a text as its standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.try_run(arguments, input).await?;
        ensure!(
            output.code == Some(0),
            "kubectl {}: {}{}",
            arguments.join(" "),
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// The same, whatever comes of it.
    pub(crate) async fn try_run(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let kubectl = self.start(arguments)?;
        let output = tokio::time::timeout(PATIENCE, fed(kubectl, input)).await;
        output.with_context(|| format!("kubectl {}", arguments.join(" ")))?
    }

    /// Starts it with pipes for its streams; it is killed when dropped.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Child> {
        let mut kubectl = Command::from(self.command(arguments));
        kubectl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(kubectl.kill_on_drop(true).spawn()?)
    }

    /// Starts it on a terminal of its own.
    pub(crate) fn on_terminal(&self, arguments: &[&str]) -> Result<Terminal> {
        Terminal::open(&self.command(arguments))
    }

    /// Has the cluster have objects as they are given, all in one request.
    pub(crate) async fn apply(&self, objects: &Value) -> Result<()> {
        let objects = match objects {
            Value::Array(items) => {
                serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items})
            }
            object => object.clone(),
        };
        let apply = ["apply", "-f", "-"];
        self.run_with(&apply, &objects.to_string()).await.map(drop)
    }

    /// An object, or a list of some.
    pub(crate) async fn get(&self, what: &str) -> Result<Value> {
        let text = self.run(&format!("get {what} -o json")).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits for what `kubectl wait` is asked to wait for.
    pub(crate) async fn wait(&self, what: &str) -> Result<()> {
        let wait = format!("wait {what} --timeout=240s");
        self.run(&wait).await.map(drop)
    }

    /// Waits until all containers of a pod are ready.
    pub(crate) async fn ready(&self, pod: &str) -> Result<()> {
        self.wait(&format!("--for=condition=Ready pod/{pod}")).await
    }

    /// Waits until all pods of a workload are there and of its latest kind.
    pub(crate) async fn rolled_out(&self, workload: &str) -> Result<()> {
        let status = format!("rollout status {workload} --timeout=240s");
        self.run(&status).await.map(drop)
    }

    /// Runs a shell script in a container of a pod; it has to succeed.
    pub(crate) async fn exec(&self, target: &str, script: &str) -> Result<String> {
        let target: Vec<&str> = target.split(' ').collect();
        let arguments = [&["exec"], target.as_slice(), &["--", "sh", "-c", script]].concat();
        self.run_with(&arguments, "").await
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut kubectl = std::process::Command::new(tools::program("tools/kubernetes/kubectl"));
        kubectl
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            // It keeps what it has learned of the API in its user's home else.
            .arg("--cache-dir")
            .arg(self.kubeconfig.with_extension("cache"))
            .args(["--namespace", &self.namespace])
            .args(arguments);
        kubectl
    }
}
