//! Amounts as Kubernetes writes them (apimachinery, `resource.Quantity`): `500m`, `64Mi`, `1.5`, `2e3`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::str::FromStr;

/// An amount that is not negative, kept in thousandths and rounded up to them, as the kubelet rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    milli: u128,
}

/// The most that an amount can be.
const MAX: u128 = i64::MAX.unsigned_abs() as u128;

/// Digits behind the point that make a difference to no amount.
const FRACTION_DIGITS_MAX: usize = 18;

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no amount like 500m, 64Mi or 1.5")]
pub struct InvalidQuantity(String);

impl Quantity {
    /// Thousandths of the unit.
    #[must_use]
    pub fn milli(self) -> u64 {
        u64::try_from(self.milli).unwrap_or(u64::MAX)
    }

    /// The unit itself, rounded up.
    #[must_use]
    pub fn whole(self) -> u64 {
        u64::try_from(self.milli.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.milli == 0
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            milli: self.milli + other.milli,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.len() > FRACTION_DIGITS_MAX {
            return None;
        }
        let (factor, divisor) = scale(suffix)?;
        let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
        let divisor = divisor.checked_mul(power(10, fraction.len())?)?;
        let milli = digits
            .checked_mul(factor)?
            .checked_mul(1000)?
            .div_ceil(divisor);
        (milli / 1000 <= MAX).then_some(Self { milli })
    }
}

/// What a suffix multiplies by, and what it divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (power(1_000, 2)?, 1),
        "G" => (power(1_000, 3)?, 1),
        "T" => (power(1_000, 4)?, 1),
        "P" => (power(1_000, 5)?, 1),
        "E" => (power(1_000, 6)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return exponent(suffix),
    })
}

/// A power of ten, `e3` or `E-3`.
fn exponent(suffix: &str) -> Option<(u128, u128)> {
    let exponent: i8 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = power(10, usize::from(exponent.unsigned_abs()))?;
    Some(match exponent < 0 {
        true => (1, power),
        false => (power, 1),
    })
}

fn power(base: u128, exponent: usize) -> Option<u128> {
    base.checked_pow(u32::try_from(exponent).ok()?)
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        Self::parse(text).ok_or_else(|| InvalidQuantity(text.to_owned()))
    }
}

/// Manifests write amounts as texts or, when they have no suffix, as numbers.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milli(text: &str) -> Option<u64> {
        text.parse().ok().map(Quantity::milli)
    }

    #[test]
    fn amounts_are_read_with_every_suffix() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1000),
            ("+1", 1000),
            ("1.5", 1500),
            (".5", 500),
            ("5.", 5000),
            ("500m", 500),
            ("1n", 1),
            ("1500u", 2),
            ("2k", 2_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("2E-3", 2),
            ("1E", u64::MAX),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "", ".", "m", "-1", "1 Mi", "1mi", "1Kib", "1.2.3", "1e", "1e99", "9Ei9", "16Ei",
            "0x10",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    #[test]
    fn fractions_are_rounded_up() {
        let whole = |text: &str| text.parse::<Quantity>().unwrap().whole();
        assert_eq!(whole("1m"), 1);
        assert_eq!(whole("1001m"), 2);
        assert_eq!(whole("64Mi"), 64 << 20);
    }

    #[test]
    fn numbers_are_amounts_too() {
        let quantity: Quantity = serde_json::from_str("0.5").unwrap();
        assert_eq!(quantity.milli(), 500);
        let quantity: Quantity = serde_json::from_str("2").unwrap();
        assert_eq!(quantity.milli(), 2000);
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }
}
