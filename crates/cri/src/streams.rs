//! Exec, Attach and PortForward: what the streaming server is to do once a client has come for a URL.

use crate::error::chain;
use crisp_cri_api::v1;
use crisp_engine::config::StreamingSettings;
use crisp_engine::{Engine, StreamControl, Streams, Wanted};
use crisp_streaming::{
    BoxFuture, Error, Exit, PortForwardRequest, Process, ProcessRequest, Resize, Settings,
    StartFailure, Stdin, TlsSettings,
};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::Status;

/// What an administrator has set, as the server takes it.
pub(crate) fn settings(set: &StreamingSettings) -> Settings {
    let tls = set.certificate.clone().zip(set.key.clone());
    Settings {
        address: set.address,
        idle_timeout: Duration::from_secs(set.idle_timeout_s),
        creation_timeout: Duration::from_secs(set.creation_timeout_s),
        tls: tls.map(|(certificate, key)| TlsSettings {
            certificate,
            key,
            client_ca: set.client_ca.clone(),
        }),
        ..Settings::default()
    }
}

/// For `map_err` on a call of the streaming server.
pub(crate) fn of_streaming(error: Error) -> Status {
    match &error {
        Error::InvalidRequest(_) => Status::invalid_argument(chain(&error)),
        Error::TooManyRequests { .. } => Status::resource_exhausted(chain(&error)),
        _ => Status::internal(chain(&error)),
    }
}

/// Runs a command in a container.
pub(crate) fn exec(engine: Arc<Engine>, request: v1::ExecRequest) -> ProcessRequest {
    let wanted = Wanted {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.tty,
    };
    let stdin = match wanted.terminal {
        true => Stdin::Terminal,
        false => Stdin::Pipe,
    };
    process_request(wanted, async move {
        let exec = engine.exec(&request.container_id, request.cmd, wanted);
        Ok(process(exec.await?, wanted, stdin, exit_code))
    })
}

/// Attaches to the first process of a container.
pub(crate) fn attach(engine: Arc<Engine>, request: v1::AttachRequest) -> ProcessRequest {
    let wanted = Wanted {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.tty,
    };
    process_request(wanted, async move {
        let attach = engine.attach(&request.container_id, wanted);
        Ok(process(attach.await?, wanted, Stdin::Pipe, |_| {
            Exit::Detached
        }))
    })
}

/// Connects to ports of a pod.
pub(crate) fn port_forward(
    engine: Arc<Engine>,
    pod: String,
    ports: Vec<u16>,
) -> PortForwardRequest {
    let connect = move |port| -> BoxFuture<io::Result<TcpStream>> {
        let (engine, pod) = (engine.clone(), pod.clone());
        Box::pin(async move {
            let dialled = engine.dial(&pod, port).await;
            dialled.map_err(|error| io::Error::other(chain(&error)))
        })
    };
    PortForwardRequest {
        ports,
        connect: Arc::new(connect),
    }
}

fn process_request(
    wanted: Wanted,
    start: impl Future<Output = Result<Process, crisp_engine::Error>> + Send + 'static,
) -> ProcessRequest {
    let start = async { start.await.map_err(|error| StartFailure(chain(&error))) };
    ProcessRequest {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        tty: wanted.terminal,
        start: Box::new(|| Box::pin(start)),
    }
}

fn process(
    streams: Streams,
    wanted: Wanted,
    stdin: fn(OwnedFd) -> Stdin,
    end: fn(i32) -> Exit,
) -> Process {
    let exit = streams.exit;
    Process {
        stdin: streams.stdin.map(stdin),
        stdout: streams.stdout,
        stderr: streams.stderr,
        resize: wanted.terminal.then(|| resize(streams.control)),
        exit: Box::pin(async move {
            match exit.await {
                Ok(code) => end(code),
                Err(error) => Exit::Unknown(chain(&error)),
            }
        }),
    }
}

fn resize(control: StreamControl) -> Resize {
    Box::new(move |size| {
        let control = control.clone();
        Box::pin(async move { control.resize(size.columns, size.rows).await })
    })
}

fn exit_code(code: i32) -> Exit {
    match u8::try_from(code) {
        Ok(code) => Exit::Code(code),
        Err(_) => Exit::Unknown(format!("exit code {code}")),
    }
}
