//! What a command left.

use crisp_cri_api::{MAX_MESSAGE_BYTES, v1};
use crisp_engine::ExecOutput;

/// What of a message is not output: the exit code, tags and lengths.
const FRAME_BYTES: usize = 1 << 10;

/// The output of a command. A client takes no message larger than its bound, and would get nothing at
/// all: what goes beyond is dropped, of the longer stream first.
pub(crate) fn exec_sync(output: ExecOutput) -> v1::ExecSyncResponse {
    let (stdout, stderr) = fitting(
        output.stdout,
        output.stderr,
        MAX_MESSAGE_BYTES - FRAME_BYTES,
    );
    v1::ExecSyncResponse {
        stdout,
        stderr,
        exit_code: output.exit_code,
    }
}

/// Each stream may fill what the other one leaves, and half in any case.
fn fitting(mut stdout: Vec<u8>, mut stderr: Vec<u8>, bound: usize) -> (Vec<u8>, Vec<u8>) {
    stdout.truncate(bound - stderr.len().min(bound / 2));
    stderr.truncate(bound - stdout.len());
    (stdout, stderr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn streams_share_the_room_that_there_is() {
        for (stdout, stderr, kept) in [
            (3, 4, (3, 4)),
            (20, 0, (10, 0)),
            (0, 20, (0, 10)),
            (20, 20, (5, 5)),
            (20, 2, (8, 2)),
            (2, 20, (2, 8)),
        ] {
            let (out, err) = fitting(vec![0; stdout], vec![0; stderr], 10);
            assert_eq!((out.len(), err.len()), kept, "{stdout} {stderr}");
        }
    }

    #[test]
    fn the_largest_answer_fits_a_message() {
        let answer = exec_sync(ExecOutput {
            stdout: vec![b'x'; MAX_MESSAGE_BYTES],
            stderr: vec![b'y'; MAX_MESSAGE_BYTES],
            exit_code: -1,
        });
        assert!(answer.encoded_len() <= MAX_MESSAGE_BYTES);
    }
}
