//! Time as CRI logs write it.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2006-01-02T15:04:05.000000000Z`: RFC 3339 in UTC with nanoseconds, always this long.
pub type Timestamp = [u8; 30];

const SECONDS_PER_DAY: u64 = 86_400;
/// From 0000-03-01, where the algorithm's years begin, to 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;
const DAYS_PER_ERA: u64 = 146_097;

/// Nanoseconds since 1970, as records carry them.
#[must_use]
pub fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Formats a time. One before 1970 is written as 1970.
#[must_use]
pub fn format(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / SECONDS_PER_DAY);
    let second = since.as_secs() % SECONDS_PER_DAY;
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..19], second % 60);
    digits(&mut text[20..29], u64::from(since.subsec_nanos()));
    text
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the
/// leap day is the last of its year and a month's first day is linear in its number.
fn civil(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + DAYS_TO_EPOCH;
    let era = days / DAYS_PER_ERA;
    let day_of_era = days % DAYS_PER_ERA;
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let first_day = 365 * year_of_era + year_of_era / 4 - year_of_era / 100;
    let day_of_year = day_of_era - first_day;
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Fills `text` with the last digits of `value`.
fn digits(text: &mut [u8], mut value: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("a remainder of ten is a digit");
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[track_caller]
    fn assert_formats(seconds: u64, nanoseconds: u32, expected: &str) {
        let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        assert_eq!(str::from_utf8(&format(time)).unwrap(), expected);
    }

    #[test]
    fn known_times_are_written_as_date_writes_them() {
        assert_formats(0, 0, "1970-01-01T00:00:00.000000000Z");
        assert_formats(951_782_399, 999_999_999, "2000-02-28T23:59:59.999999999Z");
        assert_formats(951_782_400, 0, "2000-02-29T00:00:00.000000000Z");
        assert_formats(951_868_800, 1, "2000-03-01T00:00:00.000000001Z");
        assert_formats(1_234_567_890, 500, "2009-02-13T23:31:30.000000500Z");
        assert_formats(1_709_164_800, 0, "2024-02-29T00:00:00.000000000Z");
        assert_formats(1_735_689_599, 0, "2024-12-31T23:59:59.000000000Z");
        assert_formats(4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut previous = civil(0);
        for day in 1..200_000 {
            let (y, m, d) = civil(day);
            let next = (y, m, d) == (previous.0, previous.1, previous.2 + 1);
            let first = d == 1 && (previous.2 >= 28);
            assert!(next || first, "{previous:?} then {:?}", (y, m, d));
            previous = (y, m, d);
        }
    }

    #[test]
    fn a_time_before_the_epoch_is_the_epoch() {
        let time = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(format(time), format(UNIX_EPOCH));
        assert_eq!(unix_ns(time), 0);
    }
}
