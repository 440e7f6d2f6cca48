//! Daemons that go away, come back, or talk garbage.

use crate::harness::*;
use crisp_shim_api::message::{Exec, List, packet, reply, request};
use crisp_shim_api::{ExitRecord, connect, recv, send};
use nix::unistd::mkfifo;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

#[test]
fn privileged_daemon_that_is_gone_is_not_missed() {
    let mut pod = Pod::start("no-daemon", usual_pod());
    let fifo = pod.dir.path().join("c1/rootfs/tmp/go");
    let start = pod.container("c1", "cat /tmp/go; echo without a daemon; exit 5");
    mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    pod.run(start);
    let exec = Exec {
        timeout_ms: 200,
        ..Pod::exec_request("c1", "e1", "sleep 2000")
    };
    drop(pod.exec(exec));
    let (socket, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut pod.daemon.socket, socket.into()));
    until("the exec's timeout", || {
        pod.shim_log().contains("timeout true")
    });
    fs::write(&fifo, "go\n").unwrap();
    until("the record", || {
        ExitRecord::read(&pod.paths.exits(), "c1")
            .unwrap()
            .is_some()
    });
    assert_eq!(
        pod.log_lines("c1"),
        ["stdout F go", "stdout F without a daemon"]
    );
    let (daemon, welcome) = Daemon::greet(connect(&pod.paths).unwrap());
    pod.daemon = daemon;
    let reply::Body::Welcome(welcome) = welcome else {
        panic!("{welcome:?}")
    };
    assert_eq!(welcome.pause_pid, pod.pause);
    let (reply, _) = pod.daemon.ask(request::Body::List(List {}));
    let reply::Body::Processes(list) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(list.processes[0].exit.as_ref().unwrap().code, 5);
    pod.finish();
}

#[test]
fn privileged_garbage_costs_its_sender_the_connection_and_nobody_else() {
    let mut pod = Pod::start("garbage", usual_pod());
    let other = connect(&pod.paths).unwrap();
    crisp_sys::socket::send(
        other.as_fd(),
        b"garbage",
        &[],
        crisp_sys::socket::Wait::Block,
    )
    .unwrap();
    assert!(recv(other.as_fd()).is_err());
    let silent = connect(&pod.paths).unwrap();
    let list = crisp_shim_api::request(1, request::Body::List(List {}));
    send(silent.as_fd(), &list, &[]).unwrap();
    let (packet, _) = recv(silent.as_fd()).unwrap();
    let Some(packet::Body::Reply(reply)) = packet.body else {
        panic!("{packet:?}")
    };
    assert!(
        matches!(reply.body, Some(reply::Body::Failure(_))),
        "{reply:?}"
    );
    pod.daemon.ask(request::Body::List(List {}));
    pod.finish();
}
