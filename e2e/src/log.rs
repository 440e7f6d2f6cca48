//! Container logs as the kubelet reads them.

/// A line of a CRI log: `<RFC 3339 time> <stream> <P|F> <text>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub time: String,
    pub stream: String,
    /// More of the same line follows.
    pub partial: bool,
    pub text: String,
}

/// Reads a whole log.
///
/// # Panics
/// A line has not the format.
#[must_use]
pub fn parse_log(log: &str) -> Vec<LogLine> {
    log.lines()
        .map(|line| parse_line(line).unwrap_or_else(|| panic!("not a line of a CRI log: {line:?}")))
        .collect()
}

fn parse_line(line: &str) -> Option<LogLine> {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().map(str::to_owned);
    let (time, stream, tag, text) = (word()?, word()?, word()?, word()?);
    let partial = match tag.as_str() {
        "P" => true,
        "F" => false,
        _ => return None,
    };
    let known_stream = matches!(stream.as_str(), "stdout" | "stderr");
    (known_stream && time.contains('T')).then_some(LogLine {
        time,
        stream,
        partial,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_belong_to_the_text() {
        let lines = parse_log(
            "2024-01-01T00:00:00.000000001Z stderr P a  b \n2024-01-01T00:00:00Z stdout F \n",
        );
        assert_eq!((lines[0].text.as_str(), lines[0].partial), ("a  b ", true));
        assert_eq!(
            (lines[1].stream.as_str(), lines[1].text.as_str()),
            ("stdout", "")
        );
    }

    #[test]
    fn other_lines_are_no_log() {
        assert_eq!(parse_line("2024-01-01T00:00:00Z stdout X text"), None);
        assert_eq!(parse_line("stdout F text"), None);
    }
}
