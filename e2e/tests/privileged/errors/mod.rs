//! Bad input: the code that the kubelet expects, a message that names the field, and nothing left.

mod containers;
mod ids;
mod pods;
mod requests;

use anyhow::{Result, ensure};
use crisp_cri_api::v1::Int64Value;
use std::fmt::Write;
use tonic::{Code, Status};

/// What is longer reaches no client: escaped it is three times as long, and hyper and Go close a
/// connection on which headers come that are longer than 16 KiB.
const MESSAGE_BYTES_MAX: usize = 5 << 10;

/// Answers that should have been refusals of a certain kind, to be told all at once.
#[derive(Debug, Default)]
struct Refusals {
    checked: usize,
    wrong: String,
}

impl Refusals {
    /// Expects a code, and a message that has a word.
    fn check<T>(&mut self, what: &str, answer: Result<T, Status>, code: Code, named: &str) {
        self.checked += 1;
        let told = match answer {
            Ok(_) => Some("it was accepted".to_owned()),
            Err(error) if error.code() != code => Some(format!("{code:?} expected: {error}")),
            Err(error) if !error.message().contains(named) => {
                Some(format!("{named:?} is not named: {error}"))
            }
            Err(error) if error.message().len() > MESSAGE_BYTES_MAX => {
                Some(format!("a message of {} bytes", error.message().len()))
            }
            Err(_) => None,
        };
        if let Some(told) = told {
            writeln!(self.wrong, "{what}: {told}").expect("a string takes all that is written");
        }
    }

    fn finish(self) -> Result<()> {
        ensure!(
            self.checked > 0 && self.wrong.is_empty(),
            "\n{}",
            self.wrong
        );
        Ok(())
    }
}

fn id(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}
