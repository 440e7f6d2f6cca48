//! Exec'd processes.

use crate::harness::*;
use crisp_shim_api::message::{CloseStdin, Exec, ResizeTerminal, reply, request};
use crisp_shim_api::{ExitRecord, MAX_PACKET_BYTES, send};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

#[test]
fn privileged_exec_has_its_own_streams_and_exit_code() {
    let mut pod = Pod::start("exec", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let exec = Exec {
        stdin: true,
        ..Pod::exec_request("c1", "e1", "cat; echo err >&2; exit 7")
    };
    let mut fds = pod.exec(exec).into_iter();
    let mut stdin = File::from(fds.next().unwrap());
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    assert_eq!(read_all(fds.next().unwrap()), "through");
    assert_eq!(read_all(fds.next().unwrap()), "err\n");
    assert_eq!(pod.daemon.exit_of("c1", "e1").code, 7);
    assert_eq!(ExitRecord::read_all(&pod.paths.exits()).unwrap(), []);
    assert!(pod.log("c1").is_empty());
    pod.finish();
}

#[test]
fn privileged_exec_on_a_terminal_can_be_resized_and_ended() {
    let mut pod = Pod::start("exec-terminal", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let exec = Exec {
        terminal: true,
        ..Pod::exec_request("c1", "e1", "cat; stty size")
    };
    let mut fds = pod.exec(exec).into_iter();
    let target = |columns, rows| ResizeTerminal {
        container_id: "c1".to_owned(),
        exec_id: "e1".to_owned(),
        columns,
        rows,
    };
    pod.daemon
        .expect_done(request::Body::ResizeTerminal(target(132, 43)));
    pod.daemon
        .expect_done(request::Body::CloseStdin(CloseStdin {
            container_id: "c1".to_owned(),
            exec_id: "e1".to_owned(),
        }));
    assert_eq!(pod.daemon.exit_of("c1", "e1").code, 0);
    let output = read_all(fds.next().unwrap());
    assert!(output.ends_with("43 132\r\n"), "{output:?}");
    pod.finish();
}

#[test]
fn privileged_exec_timeout_kills_what_was_started_and_spares_the_rest() {
    let mut pod = Pod::start("exec-timeout", usual_pod());
    // An init that reaps what it is left.
    pod.run(pod.container("c1", "sleep 1000 & wait"));
    let script = "(sleep 2000 & exec sleep 2000) & setsid sleep 2000 & echo started; sleep 2000";
    let exec = Exec {
        timeout_ms: 3000,
        ..Pod::exec_request("c1", "e1", script)
    };
    let fds = pod.exec(exec);
    let exit = pod.daemon.exit_of("c1", "e1");
    assert!(exit.timed_out, "{exit:?}");
    assert_eq!(exit.signal, 9);
    // All who held the pipe are gone.
    assert_eq!(read_all(fds.into_iter().next().unwrap()), "started\n");
    let sleepers = pod.output("c1", "ps");
    assert!(
        sleepers.contains("sleep 1000") && !sleepers.contains("sleep 2000"),
        "{sleepers}"
    );
    until("the killed to be reaped", || zombies(&pod).is_empty());
    pod.finish();
}

#[test]
fn privileged_exec_timeout_kills_who_is_started_meanwhile() {
    let mut pod = Pod::start("exec-forks", usual_pod());
    pod.run(pod.container("c1", "sleep 1000 & wait"));
    let exec = Exec {
        timeout_ms: 300,
        ..Pod::exec_request("c1", "e1", "while :; do setsid sleep 2000 & done")
    };
    let fds = pod.exec(exec);
    assert!(pod.daemon.exit_of("c1", "e1").timed_out);
    drop(fds);
    until("all to be gone", || {
        !pod.output("c1", "ps").contains("sleep 2000")
    });
    pod.finish();
}

#[test]
fn privileged_exec_takes_a_long_environment_from_a_file() {
    let mut pod = Pod::start("exec-file", usual_pod());
    pod.run(pod.container("c1", "sleep 1000"));
    let long = "x".repeat(MAX_PACKET_BYTES / 2);
    let process = json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", "echo ${#A} ${#B} ${#C}"],
        "env": [format!("A={long}"), format!("B={long}"), format!("C={long}"), "PATH=/bin"],
        "cwd": "/",
    });
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(process.to_string().as_bytes()).unwrap();
    let exec = Exec {
        process_json: Vec::new(),
        ..Pod::exec_request("c1", "e1", "")
    };
    let request = crisp_shim_api::request(1000, request::Body::Exec(exec));
    send(pod.daemon.socket.as_fd(), &request, &[file.as_fd()]).unwrap();
    let (reply, fds) = pod.daemon.answer(1000);
    assert!(matches!(reply, reply::Body::ExecStarted(_)), "{reply:?}");
    assert_eq!(
        read_all(fds.into_iter().next().unwrap()),
        "65536 65536 65536\n"
    );
    assert_eq!(pod.daemon.exit_of("c1", "e1").code, 0);
    pod.finish();
}
