//! Findings as a list that a person reads. Pure.

use super::{Finding, Verdict};
use crate::text::{count, wrap};

/// Where the texts begin, and how wide they get.
const INDENT: usize = 30;
const WIDTH: usize = 78;

/// All findings and what they come to.
pub(super) fn report(findings: &[Finding]) -> String {
    let mut text: String = findings.iter().map(entry).collect();
    text.push_str(&format!("\n{}\n", summary(findings)));
    text
}

fn entry(finding: &Finding) -> String {
    let (word, advice) = match &finding.verdict {
        Verdict::Fine => ("ok", None),
        Verdict::Note(advice) => ("note", Some(advice)),
        Verdict::Missing(advice) => ("missing", Some(advice)),
    };
    let head = format!("{word:<8} {:<20}", finding.subject);
    let mut text = block(&format!("{head:<INDENT$}"), &finding.fact);
    if let Some(advice) = advice {
        let blank = " ".repeat(INDENT);
        text.push_str(&block(&format!("{blank}so: "), &advice.consequence));
        text.push_str(&block(&format!("{blank}do: "), &advice.remedy));
    }
    text
}

/// A text behind a head; further lines begin below its first letter.
fn block(head: &str, text: &str) -> String {
    let indent = head.chars().count();
    let lines = wrap(text, WIDTH);
    let line = |(index, line): (usize, &String)| match index {
        0 => format!("{head}{line}\n"),
        _ => format!("{:indent$}{line}\n", ""),
    };
    lines.iter().enumerate().map(line).collect()
}

fn summary(findings: &[Finding]) -> String {
    let missing = findings
        .iter()
        .filter(|finding| finding.is_missing())
        .count();
    let notes = findings
        .iter()
        .filter(|f| matches!(f.verdict, Verdict::Note(_)))
        .count();
    match (missing, notes) {
        (0, 0) => "This host has all that pods need.".to_owned(),
        (0, notes) => format!("Pods run here; {} above.", count(notes, "note")),
        (missing, notes) => {
            let things = count(missing, "thing");
            format!(
                "Pods do not run here: {things} missing; {} above.",
                count(notes, "note")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_its_consequence_and_remedy_below_it() {
        let findings = [
            Finding::fine("kernel", "6.12"),
            Finding::note("swap", "is on", "kubelets do not start", "turn it off"),
            Finding::missing(
                "overlayfs",
                "is not there",
                "no container starts",
                "modprobe overlay",
            ),
        ];
        assert_eq!(
            report(&findings),
            "\
ok       kernel               6.12
note     swap                 is on
                              so: kubelets do not start
                              do: turn it off
missing  overlayfs            is not there
                              so: no container starts
                              do: modprobe overlay

Pods do not run here: 1 thing missing; 1 note above.
"
        );
        assert!(report(&findings[..2]).ends_with("\nPods run here; 1 note above.\n"));
        assert!(report(&findings[..1]).ends_with("\nThis host has all that pods need.\n"));
    }

    #[test]
    fn long_texts_go_on_below_their_beginning() {
        let text = entry(&Finding::fine("kernel", "word ".repeat(20)));
        let second = text.lines().nth(1).unwrap();
        assert_eq!(second.find("word"), Some(INDENT));
    }
}
