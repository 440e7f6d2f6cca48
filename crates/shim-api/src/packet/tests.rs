use super::*;
use crate::message::*;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::fmt::Write;
use std::os::fd::AsFd;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap()
}

fn hex(packet: &Packet) -> String {
    encode(packet)
        .unwrap()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// The bytes of each message with every field set, a line of `golden.txt` each. A change of a line
/// breaks running pods.
#[test]
fn packets_have_the_bytes_they_always_had() {
    let id = || "c1".to_owned();
    let exit = Exit {
        container_id: id(),
        exec_id: "e1".to_owned(),
        code: 1,
        signal: 9,
        oom_killed: true,
        finished_at_ns: 300,
        timed_out: true,
        pid: 7,
    };
    let map = IdMap {
        container_id: 0,
        host_id: 100_000,
        length: 65536,
    };
    let start_pod = StartPod {
        hostname: "h".to_owned(),
        new_network: true,
        new_ipc: true,
        new_uts: true,
        new_pid: true,
        uid_map: vec![map],
        gid_map: vec![map],
        sysctls: [("a.b".to_owned(), "1".to_owned())].into(),
        shm_size_bytes: 64,
        cgroup_dirs: vec!["/c".to_owned()],
        oom_score_adj: -998,
        process_label: "p".to_owned(),
        file_label: "f".to_owned(),
    };
    let start_container = StartContainer {
        container_id: id(),
        bundle_dir: "/b".to_owned(),
        rootfs: Some(Overlay {
            lower_dirs: vec!["/l".to_owned()],
            upper_dir: "/u".to_owned(),
            work_dir: "/w".to_owned(),
        }),
        cgroup_dirs: vec!["/c".to_owned()],
        seccomp_filter: vec![1, 2],
        seccomp_flags: 1,
        log_path: "/o".to_owned(),
        terminal: true,
        stdin: true,
        stdin_once: true,
        pod_shm: true,
        runtime: Some(OciRuntime {
            program: "/r".to_owned(),
            arguments: vec!["-d".to_owned()],
        }),
        alone: true,
        rootfs_comes: true,
    };
    let exec = Exec {
        container_id: id(),
        exec_id: "e1".to_owned(),
        process_json: b"{}".to_vec(),
        terminal: true,
        stdin: true,
        timeout_ms: 1000,
        seccomp_filter: vec![1],
        seccomp_flags: 1,
    };
    let packets = [
        request(1, request::Body::Hello(Hello { version: 1 })),
        request(1, request::Body::StartPod(start_pod)),
        request(1, request::Body::StartContainer(start_container)),
        request(1, request::Body::Exec(exec)),
        request(
            1,
            request::Body::Signal(Signal {
                container_id: id(),
                exec_id: "e1".to_owned(),
                signal: 15,
                all: true,
            }),
        ),
        request(
            1,
            request::Body::ReopenLog(ReopenLog { container_id: id() }),
        ),
        request(
            1,
            request::Body::Attach(Attach {
                container_id: id(),
                stdin: true,
                stdout: true,
                stderr: true,
            }),
        ),
        request(
            1,
            request::Body::ResizeTerminal(ResizeTerminal {
                container_id: id(),
                exec_id: "e1".to_owned(),
                columns: 80,
                rows: 25,
            }),
        ),
        request(
            1,
            request::Body::CloseStdin(CloseStdin {
                container_id: id(),
                exec_id: "e1".to_owned(),
            }),
        ),
        request(1, request::Body::List(List {})),
        request(
            1,
            request::Body::RemoveContainer(RemoveContainer { container_id: id() }),
        ),
        request(1, request::Body::Shutdown(Shutdown {})),
        reply(
            1,
            reply::Body::Failure(Failure {
                kind: failure::Kind::NotExecutable.into(),
                message: "m".to_owned(),
            }),
        ),
        reply(1, reply::Body::Done(Done {})),
        reply(
            1,
            reply::Body::Welcome(Welcome {
                version: 1,
                shim_pid: 2,
                pause_pid: 3,
                pod_exited: Some(PodExited { code: 1, signal: 9 }),
            }),
        ),
        reply(
            1,
            reply::Body::PodStarted(PodStarted {
                pause_pid: 3,
                ..PodStarted::default()
            }),
        ),
        reply(
            1,
            reply::Body::ContainerStarted(ContainerStarted {
                pid: 7,
                started_at_ns: 300,
            }),
        ),
        reply(1, reply::Body::ExecStarted(ExecStarted { pid: 7 })),
        reply(1, reply::Body::Attached(Attached {})),
        reply(
            1,
            reply::Body::Processes(Processes {
                processes: vec![Process {
                    container_id: id(),
                    pid: 7,
                    started_at_ns: 300,
                    exit: Some(exit.clone()),
                }],
            }),
        ),
        event(event::Body::Exit(exit)),
        event(event::Body::PodExited(PodExited { code: 1, signal: 9 })),
        event(event::Body::Started(Process {
            container_id: id(),
            pid: 7,
            started_at_ns: 300,
            exit: None,
        })),
    ];
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    let bytes: Vec<String> = packets.iter().map(hex).collect();
    assert_eq!(bytes, golden);
    for packet in packets {
        assert_eq!(decode(&encode(&packet).unwrap()).unwrap(), packet);
    }
}

#[test]
fn a_packet_travels_with_descriptors_in_order() {
    let (ours, theirs) = pair();
    let files = [std::io::pipe().unwrap(), std::io::pipe().unwrap()];
    let fds: Vec<_> = files.iter().map(|(_, writer)| writer.as_fd()).collect();
    let sent = reply(5, reply::Body::Done(Done {}));
    send(ours.as_fd(), &sent, &fds).unwrap();
    let (packet, received) = recv(theirs.as_fd()).unwrap();
    assert_eq!(packet, sent);
    let inode = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).unwrap().st_ino;
    for (sent, received) in fds.iter().zip(&received) {
        assert_eq!(inode(*sent), inode(received.as_fd()));
    }
    assert_eq!(received.len(), 2);
}

#[test]
fn without_a_packet_or_a_peer_the_caller_is_told() {
    let (ours, theirs) = pair();
    assert!(matches!(
        try_recv(theirs.as_fd()),
        Err(PacketError::WouldBlock)
    ));
    drop(ours);
    assert!(matches!(try_recv(theirs.as_fd()), Err(PacketError::Closed)));
    let packet = reply(5, reply::Body::Done(Done {}));
    assert!(matches!(
        try_send(theirs.as_fd(), &packet, &[]),
        Err(PacketError::Closed)
    ));
}

#[test]
fn a_full_socket_takes_a_packet_whole_or_not_at_all() {
    let (ours, theirs) = pair();
    let packet = reply(5, reply::Body::Done(Done {}));
    let mut sent = 0;
    while try_send(ours.as_fd(), &packet, &[]).is_ok() {
        sent += 1;
    }
    for _ in 0..sent {
        assert_eq!(try_recv(theirs.as_fd()).unwrap().0, packet);
    }
    assert!(matches!(
        try_recv(theirs.as_fd()),
        Err(PacketError::WouldBlock)
    ));
}

#[test]
fn a_packet_that_is_too_long_is_not_sent_and_not_taken() {
    let exec = |length| {
        request(
            1,
            request::Body::Exec(Exec {
                process_json: vec![b' '; length],
                ..Exec::default()
            }),
        )
    };
    let (ours, theirs) = pair();
    let refused = send(ours.as_fd(), &exec(MAX_PACKET_BYTES), &[]);
    assert!(matches!(refused, Err(PacketError::TooLong { .. })));
    let longest = exec(MAX_PACKET_BYTES - 16);
    send(ours.as_fd(), &longest, &[]).unwrap();
    assert_eq!(recv(theirs.as_fd()).unwrap().0, longest);
    socket::send(ours.as_fd(), &[1; MAX_PACKET_BYTES + 1], &[], Wait::Block).unwrap();
    assert!(matches!(recv(theirs.as_fd()), Err(PacketError::Truncated)));
}

#[test]
fn what_is_no_packet_is_refused() {
    for bytes in [&[][..], &[0xff], &[0x0a, 0x7f, 0x01], b"GET / HTTP/1.1\r\n"] {
        assert!(
            matches!(decode(bytes), Err(PacketError::Malformed(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn the_lower_version_of_both_sides_is_spoken() {
    assert_eq!(negotiate(VERSION), Some(VERSION));
    assert_eq!(negotiate(VERSION + 1), Some(VERSION));
    assert_eq!(negotiate(0), None);
}
