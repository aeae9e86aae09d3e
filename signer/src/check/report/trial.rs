//! What trials showed, as text and for a comment.

use std::fmt::Write as _;

use mcpfs_trust::error::bounded;

use super::markdown::{Page, code, codes};
use crate::check::PlatformTrial;
use crate::check::trial::{ToolChange, ToolChanges, around};
use crate::trial::Trial;

/// Entries of one list that are shown; JSON has all.
const SHOWN: usize = 40;
/// Characters of a description that changed.
const DIFFERENCE: usize = 600;

/// For a terminal.
pub(super) fn text(trials: &[PlatformTrial]) -> String {
    let mut text = String::new();
    for one in trials {
        let _ = writeln!(text, "trial ({}): {}", one.platform, summary(&one.trial));
        for tool in one.trial.tools.iter().take(SHOWN) {
            let _ =
                writeln!(text, "    {}({}): {}", tool.name, tool.parameters.join(", "), beginning(&tool.description));
        }
        if one.trial.tools.len() > SHOWN {
            let _ = writeln!(text, "    and {} more tools", one.trial.tools.len() - SHOWN);
        }
        if let Some(called) = &one.trial.called {
            let how = if called.failed { "failed" } else { "answered" };
            let _ = writeln!(text, "    called {}: {how}: {}", called.tool, called.answer);
        }
        if let Some(changes) = &one.tool_changes {
            changed(&mut text, changes);
        }
    }
    text
}

/// As much of a description as a line of a terminal has room for.
fn beginning(description: &str) -> String {
    let line: String = description.chars().take(100).collect();
    if line.len() < description.len() { format!("{line}…") } else { line }
}

fn changed(text: &mut String, changes: &ToolChanges) {
    if changes.is_empty() {
        let _ = writeln!(text, "tools: none changed since {}", changes.since);
        return;
    }
    let _ = writeln!(text, "tools changed since {}", changes.since);
    for (mark, names) in [("+", &changes.added), ("-", &changes.removed)] {
        names.iter().for_each(|name| {
            let _ = writeln!(text, "    {mark} {name}");
        });
    }
    for change in &changes.changed {
        let _ = writeln!(text, "    ~ {}", change.name);
        for (what, before, after) in differences(change) {
            let _ = writeln!(text, "        {what} before: {before}\n        {what} after:  {after}");
        }
        if change.other {
            let _ = writeln!(text, "        title, annotations or output schema differ");
        }
    }
}

fn differences(change: &ToolChange) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    if let Some([before, after]) = &change.description {
        let (before, after) = around(before, after, DIFFERENCE);
        found.push(("description", before, after));
    }
    if let Some([before, after]) = &change.parameters {
        let what = if before == after { "input schema of" } else { "parameters" };
        found.push((what, before.join(", "), after.join(", ")));
    }
    found
}

/// `everything 2.0.0, initialize in 812 ms, 13 tools, 7 resources, 351 files opened`
fn summary(trial: &Trial) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut parts = vec![trial.server.clone().unwrap_or_else(|| "no server answered".to_owned())];
    parts.extend(trial.initialize_ms.map(|took| format!("initialize in {took} ms")));
    parts.push(count(trial.tools.len(), "tool"));
    parts.extend(trial.resources.map(|found| count(found, "resource")));
    parts.extend(trial.prompts.map(|found| count(found, "prompt")));
    parts.push(format!("{} opened", count(trial.observed.opened_count, "file")));
    parts.join(", ")
}

/// For a comment on a pull request.
pub(super) fn markdown(page: &mut Page, trials: &[PlatformTrial]) {
    for one in trials {
        page.heading(&format!("### Trial on {}", code(one.platform.as_str())));
        page.line("Started once in a sandbox without network. What a server does then is no promise.");
        page.line("");
        page.line(&format!("- **Server:** {}", code(&summary(&one.trial))));
        let observed = &one.trial.observed;
        let list = |all: Vec<&str>| {
            let more = all.len().saturating_sub(SHOWN);
            let shown = codes(all.into_iter().take(SHOWN));
            if more > 0 { format!("{shown} and {more} more") } else { shown }
        };
        let facts = [
            ("Wanted to write", observed.writes.iter().map(|write| write.path.as_str()).collect::<Vec<_>>()),
            ("Tried to reach", observed.network.iter().map(String::as_str).collect()),
            ("Programs", observed.programs.iter().map(|program| program.path.as_str()).collect()),
            ("Looked for", observed.reads.iter().map(String::as_str).collect()),
        ];
        for (what, found) in facts.into_iter().filter(|(_, found)| !found.is_empty()) {
            page.line(&format!("- **{what}:** {}", list(found)));
        }
        for tool in one.trial.tools.iter().take(SHOWN) {
            let parameters = if tool.parameters.is_empty() {
                String::new()
            } else {
                codes(tool.parameters.iter().map(String::as_str))
            };
            page.line(&format!("- Tool {} ({parameters}): {}", code(&tool.name), code(&bounded(&tool.description))));
        }
        if one.trial.tools.len() > SHOWN {
            page.line(&format!("- and {} more tools", one.trial.tools.len() - SHOWN));
        }
        if let Some(changes) = &one.tool_changes {
            tools(page, changes);
        }
    }
}

fn tools(page: &mut Page, changes: &ToolChanges) {
    page.heading(&format!("#### Tools since version {}", code(changes.since.as_str())));
    if changes.is_empty() {
        page.line("None changed.");
    }
    for (what, names) in [("New", &changes.added), ("Gone", &changes.removed)] {
        if !names.is_empty() {
            page.line(&format!("- {what}: {}", codes(names.iter().map(String::as_str))));
        }
    }
    for change in &changes.changed {
        page.line(&format!("- **Changed:** {}", code(&change.name)));
        for (what, before, after) in differences(change) {
            page.line(&format!("  - {what} before: {}", code(&before)));
            page.line(&format!("  - {what} after: {}", code(&after)));
        }
        if change.other {
            page.line("  - title, annotations or output schema differ");
        }
    }
}
