//! The end of a driver: a program that has something checked and tells a person of it.

use anyhow::Result;
use std::process::ExitCode;

/// Success when all went well; failure when something did not, and when there is no verdict, with the reason.
#[must_use]
pub fn exit_code(verdict: Result<bool>) -> ExitCode {
    match verdict {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
