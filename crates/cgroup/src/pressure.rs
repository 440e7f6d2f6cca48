//! Pressure stall information: how long processes waited for what they lacked.
//!
//! Documentation/accounting/psi.rst. A file has one line for `some` (at least one process waited) and one
//! for `full` (all that could have run waited): `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.

use serde::Serialize;

/// What one resource kept processes waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All processes that were not idle waited.
    pub full: Stall,
}

/// Shares of time in percent, and a sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Over the last ten seconds.
    pub avg10: f64,
    /// Over the last minute.
    pub avg60: f64,
    /// Over the last five minutes.
    pub avg300: f64,
    /// Since the cgroup was made.
    pub total_us: u64,
}

impl Pressure {
    /// Kernels before 5.13 have no `full` line for the cpu.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut pressure = Self::default();
        for line in text.lines() {
            let (kind, fields) = line.split_once(' ')?;
            match kind {
                "some" => pressure.some = stall(fields)?,
                "full" => pressure.full = stall(fields)?,
                _ => return None,
            }
        }
        Some(pressure)
    }
}

fn stall(fields: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    for field in fields.split_ascii_whitespace() {
        match field.split_once('=')? {
            ("avg10", share) => stall.avg10 = share.parse().ok()?,
            ("avg60", share) => stall.avg60 = share.parse().ok()?,
            ("avg300", share) => stall.avg300 = share.parse().ok()?,
            ("total", sum) => stall.total_us = sum.parse().ok()?,
            _ => {}
        }
    }
    Some(stall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_has_two_lines() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.03 total=12345\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = Pressure::parse(text).unwrap();
        assert_eq!(
            pressure.some,
            Stall {
                avg10: 1.5,
                avg60: 0.2,
                avg300: 0.03,
                total_us: 12_345
            }
        );
        assert_eq!(pressure.full.total_us, 7);
        let only_some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(Pressure::parse(only_some).unwrap().full, Stall::default());
    }

    #[test]
    fn other_content_is_not_understood() {
        for text in ["none avg10=0.00", "some avg10", "some avg10=x total=1"] {
            assert_eq!(Pressure::parse(text), None, "{text:?}");
        }
    }
}
