//! `mcpfs doctor`: findings as lines, what is wrong with its fix below.

use std::io::Write as _;

use crate::cli::Global;
use crate::doctor::{self, Finding, State};
use crate::refusal::Exit;
use serde::Serialize;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Whether nothing is wrong.
    well: bool,
    findings: &'a [Finding],
}

/// Looks at everything, prints it, and ends with 1 if something is wrong.
pub fn run(global: &Global) -> Exit {
    let findings = doctor::examine(&doctor::file(global.config.as_deref()));
    let well = findings.iter().all(|finding| finding.state != State::Wrong);
    let text = match global.json {
        true => serde_json::to_string_pretty(&Report { well, findings: &findings }).unwrap_or_default() + "\n",
        false => text(&findings, global.quiet > 0),
    };
    // Whoever closed the pipe has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if well { Exit::Ok } else { Exit::Refused }
}

fn text(findings: &[Finding], quiet: bool) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| !quiet || finding.state == State::Wrong) {
        let mark = match finding.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Unknown => "unknown",
            State::Wrong => "WRONG",
        };
        // What was found may be a registry's or a file's words.
        let found = mcpfs_trust::error::bounded(&finding.found);
        text += &format!("{mark:7}  {:15}  {found}\n", finding.code.code());
        if let Some(fix) = &finding.fix {
            text += &format!("{:26}fix: {fix}\n", "");
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count() as u64;
    if !quiet {
        text += &format!(
            "{} wrong, {}, {} unknown\n",
            count(State::Wrong),
            crate::words::count(count(State::Note), "note"),
            count(State::Unknown)
        );
    }
    text
}
