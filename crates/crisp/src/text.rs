//! Figures, times and tables as a person reads them. Pure.

use std::time::Duration;

/// The letters between two columns.
const GAP: &str = "   ";

/// How many letters of an id are shown: enough to tell those of one node apart.
const SHORT_ID: usize = 12;

/// Rows in columns that are as wide as their widest cell. Lines end without blanks, and no cell can write to
/// the terminal.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a line of titles.
    pub(crate) fn titled(titles: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(titles.iter().map(|title| (*title).to_owned()));
        table
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| printable(&cell));
        self.rows.push(cells.collect());
    }

    /// The lines, each ended, with `indent` blanks before each.
    pub(crate) fn render(&self, indent: usize) -> String {
        let widths = self.widths();
        let line = |row: &Vec<String>| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join(GAP);
            format!("{:indent$}{}\n", "", line.trim_end())
        };
        self.rows.iter().map(line).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

/// Lines of at most `width` letters, broken between words.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// An amount of bytes: `512 B`, `12.3 MiB`.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if amount < 1024 {
        return format!("{amount} B");
    }
    let steps = UNITS.len().min(usize::from(highest_bit(amount) / 10));
    let shift = 10 * steps;
    let tenths = ((u128::from(amount) * 10) >> shift).min(u128::from(u64::MAX));
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[steps - 1]),
        rest => format!("{}.{rest} {}", tenths / 10, UNITS[steps - 1]),
    }
}

fn highest_bit(amount: u64) -> u8 {
    u8::try_from(amount.checked_ilog2().unwrap_or(0)).expect("64 bits have numbers below 64")
}

/// A text of a client's or a container's choosing, which cannot write to the terminal.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// How long something took or is ago, in its largest unit: `48s`, `5m`, `3h`, `12d`.
pub(crate) fn age(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m", seconds / 60),
        seconds @ ..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

/// The beginning of an id, without the name of its digest algorithm.
pub(crate) fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..SHORT_ID).unwrap_or(id)
}

/// A number with the word that it counts, `1 pod`, `2 pods`.
pub(crate) fn count(number: usize, word: &str) -> String {
    match number {
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    }
}

/// [`count`] of what is counted in 64 bits.
pub(crate) fn number(amount: u64, word: &str) -> String {
    count(usize::try_from(amount).unwrap_or(usize::MAX), word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::titled(&["NAME", "STATE"]);
        table.row(["a-long-name".to_owned(), "Ready".to_owned()]);
        table.row(["ä".to_owned(), String::new()]);
        assert_eq!(
            table.render(1),
            " NAME          STATE\n a-long-name   Ready\n ä\n"
        );
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("overlong", 3), ["overlong"]);
        assert!(wrap(" ", 3).is_empty());
    }

    #[test]
    fn bytes_are_told_in_the_largest_unit() {
        for (amount, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            (12_900_000, "12.3 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
    }

    #[test]
    fn ages_are_told_in_the_largest_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7200, "2h"),
            (90_000, "1d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }

    #[test]
    fn ids_are_shortened_and_words_counted() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("ab"), "ab");
        assert_eq!(count(1, "pod"), "1 pod");
        assert_eq!(count(0, "pod"), "0 pods");
    }
}
