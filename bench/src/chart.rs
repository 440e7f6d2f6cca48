//! Figures as bars, in SVG: for each thing a bar for each runtime, the longest of them full length.

use crate::figure::{Row, three_digits};
use crate::report::Report;

/// What is drawn of a report, as it is called there.
const DRAWN: [&str; 16] = [
    "pod start",
    "pod start, host network",
    "pod stop and remove",
    "pods started, 8 at a time",
    "ExecSync true",
    "Exec echo, to its first output",
    "memory per idle pod (PSS)",
    "daemon RSS, 100 pods",
    "cpu, 100 idle pods",
    "  while lists are asked for each second",
    "ListContainers, 100 pods",
    "ListContainerStats, 100 pods",
    "pull and unpack of 500 MB",
    "the daemon's peak RSS meanwhile",
    "log of one container",
    "the runtime's cpu for it",
];

const WIDTH: usize = 860;
const LABEL_WIDTH: usize = 250;
const BAR_WIDTH: f64 = 440.0;
const BAR_HEIGHT: usize = 14;
const GAP: usize = 14;
const HEAD: usize = 48;

/// In the order of the runtimes; told apart by the color-blind, too (Okabe and Ito, 2008).
const COLORS: [&str; 6] = [
    "#0072b2", "#e69f00", "#999999", "#009e73", "#cc79a7", "#56b4e9",
];

pub(crate) fn draw(report: &Report) -> String {
    let all = report.groups.iter().flatten();
    let rows: Vec<&Row> = all
        .filter(|row| DRAWN.contains(&row.what.as_str()))
        .collect();
    let height = HEAD + rows.iter().map(|row| height_of(row)).sum::<usize>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    svg += &legend(report);
    let mut top = HEAD;
    for row in rows {
        svg += &bars(row, top);
        top += height_of(row);
    }
    svg + "</svg>\n"
}

/// Of a bar for each runtime that has a figure.
fn height_of(row: &Row) -> usize {
    row.figures.iter().flatten().count() * BAR_HEIGHT + GAP
}

fn legend(report: &Report) -> String {
    let mut svg = String::new();
    let width = WIDTH / report.runtimes.len().max(1);
    for (number, runtime) in report.runtimes.iter().enumerate() {
        let x = 10 + number * width;
        svg += &format!(
            "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{}\"/>\n",
            color(number)
        );
        svg += &text(
            x + 18,
            22,
            &format!("{} ({})", runtime.name, runtime.version),
        );
    }
    svg
}

fn bars(row: &Row, top: usize) -> String {
    let unit = row.unit;
    let mut svg = text(10, top + BAR_HEIGHT - 3, &format!("{}, {unit}", row.what));
    let medians = row.figures.iter().flatten().map(|figure| figure.median);
    let longest = medians.fold(f64::MIN_POSITIVE, f64::max);
    let figures = row.figures.iter().enumerate();
    let figures = figures.filter_map(|(number, figure)| Some((number, (*figure)?)));
    for (place, (number, figure)) in figures.enumerate() {
        let y = top + place * BAR_HEIGHT;
        let width = (figure.median / longest * BAR_WIDTH).max(1.0);
        svg += &format!(
            "<rect x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\n",
            BAR_HEIGHT - 2,
            color(number)
        );
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{}\">{}</text>\n",
            LABEL_WIDTH as f64 + width + 6.0,
            y + BAR_HEIGHT - 3,
            three_digits(figure.median)
        );
    }
    svg
}

fn text(x: usize, y: usize, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x}\" y=\"{y}\">{words}</text>\n")
}

fn color(number: usize) -> &'static str {
    COLORS[number % COLORS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Figure, Unit};

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let row = Row {
            what: "pod start".to_owned(),
            unit: Unit::Milliseconds,
            figures: vec![Figure::of(&[5.0]), None, Figure::of(&[10.0])],
        };
        let svg = bars(&row, 0);
        assert!(
            svg.contains("width=\"220.0\"") && svg.contains("width=\"440.0\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<rect").count(), 2);
    }

    #[test]
    fn names_are_text_and_no_markup() {
        assert!(text(0, 0, "a<b & c").contains("a&lt;b &amp; c"));
    }
}
