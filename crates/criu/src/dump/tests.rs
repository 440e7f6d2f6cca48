//! What the client makes of what a criu says: of one in a shell.

use super::*;
use tempfile::TempDir;

/// A packet that tells of a step, and one that ends a dump.
fn step(name: &str) -> Vec<u8> {
    let notification = crate::message::Notification {
        step: Some(name.to_owned()),
    };
    response(Kind::Notify, true, Some(notification))
}

fn response(
    kind: Kind,
    success: bool,
    notification: Option<crate::message::Notification>,
) -> Vec<u8> {
    let mut response = Response {
        success,
        notification,
        ..Response::default()
    };
    response.set_kind(kind);
    response.encode_to_vec()
}

/// A criu that takes the request, sends each packet and reads the answer to it into `answers`.
fn criu(dir: &TempDir, packets: &[Vec<u8>], end: &str) -> Command {
    let mut script = "read_packet() { dd bs=65536 count=1 <&0 2>/dev/null; }\n\
                      read_packet >/dev/null\n"
        .to_owned();
    for (number, packet) in packets.iter().enumerate() {
        std::fs::write(dir.path().join(number.to_string()), packet).unwrap();
        script += &format!("dd if={number} bs=65536 >&0 2>/dev/null\nread_packet >>answers\n");
    }
    script += end;
    let path = dir.path().join("criu");
    std::fs::write(&path, script).unwrap();
    let mut command = Command::new("bash");
    command.arg(path).current_dir(dir.path());
    command
}

fn dump(
    dir: &TempDir,
    mut criu: Command,
    time: Duration,
    written: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let dump = Dump {
        pid: 1,
        images_dir: dir.path(),
        work_dir: dir.path(),
        external: Vec::new(),
        connections: Connections::None,
    };
    dump.run(&mut criu, Instant::now() + time, written)
}

fn answers(dir: &TempDir) -> Vec<u8> {
    std::fs::read(dir.path().join("answers")).unwrap_or_default()
}

/// `kind: NOTIFY, go_on` on the wire.
const YES: [u8; 4] = [8, 6, 24, 1];
const NO: [u8; 4] = [8, 6, 24, 0];
const LONG: Duration = Duration::from_secs(60);

#[test]
fn what_is_to_be_done_meanwhile_is_done_at_its_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut packets = ["pre-dump", WRITTEN, "network-unlock"].map(step).to_vec();
    packets.push(response(Kind::Dump, true, None));
    let criu = criu(&dir, &packets, "");
    let mut before = Vec::new();
    dump(&dir, criu, LONG, || {
        before = answers(&dir);
        Ok(())
    })
    .unwrap();
    assert_eq!(before, YES);
    assert_eq!(answers(&dir), [YES; 3].concat());
}

#[test]
fn criu_is_told_to_undo_it_when_that_fails_or_is_late() {
    let packets = [
        step(WRITTEN),
        step("network-unlock"),
        response(Kind::Dump, false, None),
    ];
    let dir = tempfile::tempdir().unwrap();
    let refused = dump(&dir, criu(&dir, &packets, "exit 1"), LONG, || {
        Err(Error::io("do it")(Errno::ENOSPC))
    });
    assert!(matches!(refused, Err(Error::Io { op: "do it", .. })));
    assert_eq!(answers(&dir), [NO, YES].concat());

    let dir = tempfile::tempdir().unwrap();
    let late = dump(&dir, criu(&dir, &packets, "exit 1"), Duration::ZERO, || {
        Ok(())
    });
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    assert_eq!(answers(&dir), [NO, YES].concat());
}

#[test]
fn failures_tell_what_the_log_says_last() {
    let dir = tempfile::tempdir().unwrap();
    let packets = [response(Kind::Dump, false, None)];
    let end = format!("echo 'Error (x.c:1): no way' >{DUMP_LOG}; exit 1");
    let failed = dump(&dir, criu(&dir, &packets, &end), LONG, || Ok(())).unwrap_err();
    assert!(failed.to_string().contains("no way"), "{failed}");
    let end = format!("echo 'Error: inet: {CONNECTED}, no way' >{DUMP_LOG}; exit 1");
    let connected = dump(&dir, criu(&dir, &packets, &end), LONG, || Ok(())).unwrap_err();
    assert!(matches!(connected, Error::Connected), "{connected}");
    let dir = tempfile::tempdir().unwrap();
    let died = dump(&dir, criu(&dir, &[], "kill -9 $$"), LONG, || Ok(())).unwrap_err();
    assert!(died.to_string().contains("signal: 9"), "{died}");
    let missing = dump(&dir, Command::new("no-such-criu"), LONG, || Ok(()));
    assert!(
        matches!(missing, Err(Error::NotInstalled { .. })),
        "{missing:?}"
    );
}
