//! Figures as a table in Markdown: those of a report that a reader of the README asks for first.

use crate::figure::{Figure, Row, three_digits};
use crate::report::{Named, Report};
use anyhow::{Context, Result};

/// The lines of a page between which the table is.
const BEGIN: &str = "<!-- figures -->\n";
const END: &str = "<!-- end of figures -->\n";

/// What the table has of a report, as it is called there.
const ROWS: [&str; 41] = [
    "pod start",
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "pod start, host network",
    "pod stop and remove",
    "pods started, 1 at a time",
    "pods started, 8 at a time",
    "pods started, 16 at a time",
    "pods started, 32 at a time",
    "ExecSync true",
    "Exec echo, to its first output",
    "memory per idle pod (PSS)",
    "daemon RSS, before the first pod",
    "daemon RSS, 100 pods",
    "cpu, 100 idle pods",
    "  while lists are asked for each second",
    "ListPodSandbox, 100 pods",
    "ListContainers, 100 pods",
    "ListPodSandbox, 1000 pods",
    "ListContainers, 1000 pods",
    "PodSandboxStatus, 10 pods",
    "PodSandboxStatus, 1000 pods",
    "ContainerStatus, 10 pods",
    "ContainerStatus, 1000 pods",
    "ListContainerStats, 10 pods",
    "ListContainerStats, 100 pods",
    "ListContainerStats, 1000 pods",
    "ListPodSandboxStats, 10 pods",
    "ListPodSandboxStats, 100 pods",
    "ListPodSandboxStats, 1000 pods",
    "pod start, 10 pods",
    "pod start, 100 pods",
    "pod start, 1000 pods",
    "start of a container, to its event, 10 pods",
    "start of a container, to its event, 100 pods",
    "start of a container, to its event, 1000 pods",
    "pull and unpack of 500 MB",
    "the daemon's peak RSS meanwhile",
    "log of one container",
    "the runtime's cpu for it",
];

/// The machine, and the table with a column for each runtime.
pub(crate) fn draw(report: &Report) -> String {
    let titles: Vec<String> = report.runtimes.iter().map(title).collect();
    let rule = "---|".repeat(titles.len());
    let mut text = format!(
        "{}\n\n| |{}\n|---|{rule}\n",
        report.machine,
        titles.concat()
    );
    let all = || report.groups.iter().flatten();
    for what in ROWS {
        let row = all().find(|row| row.what == what);
        text.extend(row.map(|row| line(row, titles.len())));
    }
    text
}

fn title(runtime: &Named) -> String {
    let Named { name, version } = runtime;
    if version.starts_with(name) {
        format!(" {version} |")
    } else {
        format!(" {name} ({version}) |")
    }
}

/// The last columns of a row may have no figure.
fn line(row: &Row, columns: usize) -> String {
    let cells = (0..columns).map(|column| match row.figures.get(column) {
        Some(Some(figure)) => format!(" {} |", cell(figure)),
        _ => " |".to_owned(),
    });
    // What belongs to the line above is indented by what Markdown does not drop.
    let what = row.what.replace("  ", "… ");
    format!("| {what}, {} |{}\n", row.unit, cells.collect::<String>())
}

/// The median, and the p99 where there are enough samples to tell.
fn cell(figure: &Figure) -> String {
    let median = three_digits(figure.median);
    match figure.tail() {
        Some(p99) => format!("{median} (p99 {})", three_digits(p99)),
        None => median,
    }
}

/// A page with the figures in place of those that it has.
pub(crate) fn put(figures: &str, page: &str) -> Result<String> {
    let missing = || format!("it has no lines {BEGIN}and {END}");
    let (before, rest) = page.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}{figures}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    #[test]
    fn a_line_has_the_median_and_a_cell_for_what_is_missing() {
        let row = Row {
            what: "  of it".to_owned(),
            unit: Unit::Milliseconds,
            figures: vec![Figure::of(&[1.0, 2.0, 3.0]), None, Figure::of(&[5.0; 20])],
        };
        let line = line(&row, 4);
        assert_eq!(line, "| … of it, ms | 2.00 | | 5.00 (p99 5.00) | |\n");
    }

    #[test]
    fn figures_take_the_place_of_older_ones_and_of_nothing_else() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        let renewed = format!("a\n{BEGIN}new\n{END}b\n");
        assert_eq!(put("new\n", &page).unwrap(), renewed);
        assert!(put("new\n", "a page without such lines").is_err());
    }
}
