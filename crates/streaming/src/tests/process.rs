//! Processes of the host, as an engine would hand them over.

use crate::{Exit, Process, ProcessRequest, Resize, Start, StartFailure, Stdin};
use nix::pty::openpty;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use tokio::process::{Child, Command};

/// A request for a shell's script, without a terminal.
pub(super) fn script(text: &str) -> ProcessRequest {
    let text = text.to_owned();
    ProcessRequest {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
        start: start(move || piped(&text)),
    }
}

/// The same in a terminal.
pub(super) fn terminal_script(text: &str) -> ProcessRequest {
    let text = text.to_owned();
    ProcessRequest {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
        start: start(move || in_terminal(&text)),
    }
}

pub(super) fn start(
    start: impl FnOnce() -> Result<Process, StartFailure> + Send + 'static,
) -> Start {
    Box::new(|| Box::pin(async { start() }))
}

fn spawn(command: &mut Command) -> Result<Child, StartFailure> {
    command
        .spawn()
        .map_err(|error| StartFailure(error.to_string()))
}

fn piped(text: &str) -> Result<Process, StartFailure> {
    let mut command = Command::new("sh");
    command.args(["-c", text]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command)?;
    let stdin = child.stdin.take().unwrap().into_owned_fd().unwrap();
    Ok(Process {
        stdin: Some(Stdin::Pipe(stdin)),
        stdout: Some(child.stdout.take().unwrap().into_owned_fd().unwrap()),
        stderr: Some(child.stderr.take().unwrap().into_owned_fd().unwrap()),
        resize: None,
        exit: Box::pin(async move { code(child.wait().await.unwrap()) }),
    })
}

fn in_terminal(text: &str) -> Result<Process, StartFailure> {
    let terminal = openpty(None, None).unwrap();
    let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "sh", "-c", text]);
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let mut child = spawn(&mut command)?;
    let master = terminal.master;
    Ok(Process {
        stdin: Some(Stdin::Terminal(master.try_clone().unwrap())),
        resize: Some(resize(master.try_clone().unwrap())),
        stdout: Some(master),
        stderr: None,
        exit: Box::pin(async move { code(child.wait().await.unwrap()) }),
    })
}

fn resize(master: OwnedFd) -> Resize {
    let master = Arc::new(master);
    Box::new(move |size| {
        let master = master.clone();
        Box::pin(async move {
            crisp_sys::terminal::set_size(&*master, size.columns, size.rows).unwrap();
        })
    })
}

fn code(status: ExitStatus) -> Exit {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(Exit::Unknown(status.to_string()), Exit::Code)
}
