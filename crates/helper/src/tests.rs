use super::*;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str, timeout: Duration) -> Helper {
    Helper {
        program: "/bin/sh".into(),
        args: ["-c", script].map(OsString::from).to_vec(),
        env: vec![("GREETING".into(), "hello".into())],
        input: Vec::new(),
        timeout,
        max_output_bytes: 4096,
    }
}

/// Whether the process whose number is in the file has ended.
fn has_ended(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie is its parent's matter.
    stat.map_or(true, |stat| stat.contains(") Z "))
}

async fn until_ended(pid_file: &Path) {
    while !has_ended(pid_file) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_helper_reads_its_input_and_tells_its_outputs_and_status() {
    let mut helper = shell(
        "read line; echo $GREETING $line; echo aside >&2; exit 3",
        LONG,
    );
    helper.input = b"world\nunread\n".to_vec();
    let output = helper.run().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"hello world\n");
    assert_eq!(output.stderr, b"aside\n");
}

#[tokio::test]
async fn input_that_is_not_read_is_no_failure() {
    let mut helper = shell("exec <&-; exit 0", LONG);
    helper.input = vec![b'x'; 1 << 20];
    assert!(helper.run().await.unwrap().status.success());
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let error = shell(&script, Duration::from_millis(500))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    until_ended(&file).await;
}

#[tokio::test]
async fn what_a_helper_leaves_behind_is_killed_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; echo done", file.display());
    let output = shell(&script, LONG).run().await.unwrap();
    assert_eq!(output.stdout, b"done\n");
    until_ended(&file).await;
}

#[tokio::test]
async fn a_process_that_left_the_group_does_not_hold_up_the_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!(
        "setsid sleep 1000 & echo $! > {}; echo done",
        file.display()
    );
    let output = shell(&script, LONG).run().await.unwrap();
    assert_eq!(output.stdout, b"done\n");
    let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn endless_output_is_cut_off() {
    for script in ["cat /dev/zero", "cat /dev/zero >&2"] {
        let error = shell(script, LONG).run().await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooMuchOutput {
                    max_bytes: 4096,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let mut helper = shell("", LONG);
    helper.program = "/no/such/program".into();
    let error = helper.run().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot run /no/such/program");
}

#[tokio::test]
async fn a_helper_that_is_killed_by_a_signal_says_so() {
    let output = shell("kill -TERM $$", LONG).run().await.unwrap();
    assert_eq!(output.status.signal(), Some(15));
}
