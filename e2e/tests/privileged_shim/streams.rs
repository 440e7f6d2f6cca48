//! What containers write and read: logs, attached clients, standard input.

use crate::harness::*;
use crisp_shim_api::message::{CloseStdin, ReopenLog, request};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

#[test]
fn privileged_log_takes_a_flood_whole_and_reopens() {
    let mut pod = Pod::start("flood", usual_pod());
    let mut start = pod.container(
        "c1",
        "head -c 3000000 /dev/zero; echo; yes line | head -n 200000; cat; echo end",
    );
    start.stdin = true;
    pod.run(start);
    until("the flood", || pod.log("c1").lines().count() >= 200_184);
    fs::rename(pod.log_path("c1"), pod.log_path("rotated")).unwrap();
    pod.daemon.expect_done(request::Body::ReopenLog(ReopenLog {
        container_id: "c1".to_owned(),
    }));
    pod.daemon
        .expect_done(request::Body::CloseStdin(CloseStdin {
            container_id: "c1".to_owned(),
            exec_id: String::new(),
        }));
    assert_eq!(pod.daemon.exit_of("c1", "").code, 0);
    assert_eq!(pod.log_lines("c1"), ["stdout F end"]);
    let rotated = pod.log_lines("rotated");
    let zeroes = rotated
        .iter()
        .filter(|line| line.starts_with("stdout P"))
        .count();
    assert_eq!(zeroes, 3_000_000 / 16_384);
    assert_eq!(
        rotated
            .iter()
            .filter(|line| *line == "stdout F line")
            .count(),
        200_000
    );
    pod.finish();
}

#[test]
fn privileged_vanished_log_directory_does_not_stop_the_container() {
    let mut pod = Pod::start("vanished", usual_pod());
    let mut start = pod.container(
        "c1",
        "for i in 1 2 3; do yes | head -c 200000; done; echo done >&2",
    );
    let logs = pod.dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    start.log_path = logs.join("c1.log").to_str().unwrap().to_owned();
    start.stdin = true;
    pod.run(start);
    fs::remove_dir_all(&logs).unwrap();
    assert_eq!(pod.daemon.exit_of("c1", "").code, 0);
    pod.finish();
}

#[test]
fn privileged_attached_clients_see_output_and_one_that_stalls_is_let_go() {
    let mut pod = Pod::start("attach", usual_pod());
    let mut start = pod.container("c1", "cat; yes | head -c 4000000; echo end; cat");
    start.stdin = true;
    pod.run(start);
    let stalled = pod.attach("c1", false);
    let mut fds = pod.attach("c1", true).into_iter();
    let mut stdin = UnixStream::from(fds.next().unwrap());
    let mut stdout = File::from(fds.next().unwrap());
    stdin.write_all(b"hello\n").unwrap();
    let mut echoed = [0; 6];
    stdout.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello\n");
    drop((stdin, stdout));
    pod.daemon
        .expect_done(request::Body::CloseStdin(CloseStdin {
            container_id: "c1".to_owned(),
            exec_id: String::new(),
        }));
    let exit = pod.daemon.exit_of("c1", "");
    assert_eq!(exit.code, 0);
    assert_eq!(pod.log_lines("c1").last().unwrap(), "stdout F end");
    let output = read_all(stalled.into_iter().next().unwrap());
    assert!(
        output.starts_with("hello\ny\n") && output.len() < 4_000_000,
        "{}",
        output.len()
    );
    pod.finish();
}

#[test]
fn privileged_stdin_once_ends_with_its_first_client() {
    let mut pod = Pod::start("stdin-once", usual_pod());
    for (id, terminal) in [("pipe", false), ("terminal", true)] {
        let mut start = pod.container_with(id, &["/bin/sh", "-c", "cat; echo end"], terminal);
        start.stdin = true;
        start.stdin_once = true;
        pod.run(start);
        let mut fds = pod.attach(id, true).into_iter();
        let mut stdin = UnixStream::from(fds.next().unwrap());
        stdin.write_all(b"line\n").unwrap();
        drop(stdin);
        let output = read_all(fds.next().unwrap());
        assert_eq!(pod.daemon.exit_of(id, "").code, 0);
        assert!(
            output.contains("line") && output.contains("end"),
            "{output:?}"
        );
    }
    assert_eq!(pod.log_lines("pipe"), ["stdout F line", "stdout F end"]);
    pod.finish();
}
