//! A comment on a pull request, from which a reviewer decides in five minutes.
//!
//! Verdict first, then what would be signed, what was found, what changed. Everything that does
//! not stand in this file as a constant is hostile: names in an artefact, fields of a recipe, and
//! messages that quote them. It is shown in a code span by [`code`], and only there. In a code
//! span nothing is Markdown: no link, HTML, image, @-mention or issue reference, on any forge;
//! and as it has no line breaks, no block can begin in it. Escaping text outside of code spans
//! was rejected: forges look for mentions and addresses after Markdown, where a backslash is gone.

use std::fmt::Write as _;

use crate::check::changes::{Changes, Paths};
use crate::check::{Checked, Finding, Severity};
use crate::recipe::Recipe;
use crate::staging::StagedArtefact;

/// Forges refuse comments above 65,536 characters.
const LIMIT: usize = 60_000;
/// Findings of one severity, and paths of one list, that are shown.
const SHOWN: usize = 40;

/// The whole comment.
pub(super) fn report(file: &str, checked: &Checked) -> String {
    let mut page = Page::default();
    let refused = checked.findings.has_errors();
    page.line(if refused { "## mcpfs check: refused" } else { "## mcpfs check: passed" });
    page.line("");
    let verdict = match refused {
        true => "must not be signed before the errors below are gone",
        false => "can be signed",
    };
    let summary = checked.findings.summary();
    page.line(&format!("{} {verdict} ({}).", code(file), summary.trim_start_matches("check: ")));
    if let Some(recipe) = &checked.recipe {
        signed(&mut page, recipe, checked.artefacts());
    }
    for (platform, inventory) in &checked.dependencies {
        page.line(&format!("- **Dependencies:** {} {}", code(platform.as_str()), inventory.counts()));
    }
    if let Some(known) = super::known(checked) {
        page.line(&format!("- **Known vulnerabilities:** {known}"));
    }
    for (platform, all) in checked.capabilities.iter().filter(|(_, all)| !all.packages.is_empty()) {
        page.line(&format!("- **Its code uses:** {} {}", code(platform.as_str()), code(&all.counts())));
    }
    if !checked.sources.is_empty() {
        page.line(&format!("- **Checked by:** {}", texts(&checked.sources)));
    }
    findings(&mut page, checked);
    if let Some(changes) = &checked.changes {
        since(&mut page, changes);
    }
    super::trial::markdown(&mut page, &checked.trials);
    page.end()
}

/// Lines, until there is no more room.
#[derive(Default)]
pub(super) struct Page {
    text: String,
    full: bool,
}

impl Page {
    pub(super) fn line(&mut self, line: &str) {
        self.full |= self.text.len() + line.len() > LIMIT;
        if !self.full {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    pub(super) fn heading(&mut self, heading: &str) {
        for line in ["", heading, ""] {
            self.line(line);
        }
    }

    fn end(mut self) -> String {
        if self.full {
            self.text.push_str("\n**The rest does not fit into a comment: run `mcpfs-signer check`.**\n");
        }
        self.text
    }
}

/// Hostile text as a code span, in which nothing is Markdown.
pub(super) fn code(text: &str) -> String {
    let text = mcpfs_trust::text::visible(text);
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // One space at each end is not part of the span, if it stands at both.
    let inner_space = text.starts_with(' ') && text.ends_with(' ');
    let pad = if inner_space || text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

pub(super) fn codes<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(code).collect::<Vec<_>>().join(", ")
}

fn texts(list: &[String]) -> String {
    codes(list.iter().map(String::as_str))
}

fn signed(page: &mut Page, recipe: &Recipe, artefacts: &[StagedArtefact]) {
    page.heading("### What would be signed");
    let mut fact = |what: &str, value: String| page.line(&format!("- **{what}:** {value}"));
    fact("Server", format!("{} version {}", code(recipe.name.as_str()), code(recipe.version.as_str())));
    fact("Description", code(&recipe.description));
    fact("Maintainer", code(&recipe.maintainer));
    let reviewed = code(&recipe.reviewed_at.to_string());
    fact("Reviewed", format!("{reviewed} by {}", texts(&recipe.reviewers)));
    let basis = recipe.lawful_basis.as_deref().map_or("none".to_owned(), code);
    fact("Data", format!("{}, lawful basis {basis}", code(&recipe.data_classification)));
    if !recipe.scope.is_empty() {
        fact("Scope", texts(&recipe.scope));
    }
    for source in &recipe.artefact {
        let measured = artefacts.iter().find(|artefact| artefact.platform == source.platform).map_or_else(
            || "could not be measured".to_owned(),
            |artefact| {
                let tree = artefact.tree.summary();
                format!("{} bytes, {} files of {} bytes", artefact.size, tree.files, tree.bytes)
            },
        );
        let (url, sha256) = (code(&source.url), code(&source.sha256.to_string()));
        fact("Artefact", format!("{} {url}, sha256 {sha256}, {measured}", code(source.platform.as_str())));
    }
    match &recipe.launch {
        None => fact("Launch", "none: hosts can list and read it, but not start it".to_owned()),
        Some(launch) => {
            let words = std::iter::once(launch.command.as_str()).chain(launch.args.iter().map(String::as_str));
            fact("Launch", words.map(code).collect::<Vec<_>>().join(" "));
            let env: Vec<String> = launch.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if !env.is_empty() {
                fact("Environment", texts(&env));
            }
            let more = serde_json::to_string(&launch.accept_args).unwrap_or_default();
            fact("Arguments that a host may add", code(&more));
        }
    }
    for credential in &recipe.credentials {
        let to = credential.env.as_deref().or(credential.file.as_deref()).unwrap_or_default();
        let scope = credential.scope.as_deref().map(|scope| format!(", scope {}", code(scope))).unwrap_or_default();
        fact("Credential", format!("{} as {}{scope}", code(&credential.reference), code(to)));
    }
    if let Some(sandbox) = &recipe.sandbox {
        fact("Sandbox", code(&serde_json::to_string(sandbox).unwrap_or_default()));
    }
}

fn findings(page: &mut Page, checked: &Checked) {
    let all = checked.findings.all();
    page.line("");
    page.line("### Findings");
    if all.is_empty() {
        page.line("");
        page.line("None.");
    }
    let open = |severity| all.iter().filter(move |one| one.waiver.is_none() && one.severity == severity);
    group(page, "Errors: nothing is signed while they stand", open(Severity::Error));
    group(page, "Warnings: a reviewer decides", open(Severity::Warning));
    group(page, "Notes", open(Severity::Note));
    group(page, "Waived", all.iter().filter(|one| one.waiver.is_some()));
}

fn group<'a>(page: &mut Page, heading: &str, findings: impl Iterator<Item = &'a Finding>) {
    let findings: Vec<&Finding> = findings.collect();
    if findings.is_empty() {
        return;
    }
    page.heading(&format!("#### {heading}"));
    for finding in findings.iter().take(SHOWN) {
        let place = finding.line.map(|line| format!("line {line}, ")).unwrap_or_default();
        let subject = if finding.subject.is_empty() { String::new() } else { format!("{} ", code(&finding.subject)) };
        page.line(&format!("- {subject}({place}rule {}): {}", code(&finding.rule), code(&finding.message)));
        if let Some(fix) = &finding.fix {
            page.line(&format!("  - Fix: {}", code(fix)));
        }
        if let Some(waiver) = &finding.waiver {
            page.line(&format!("  - Waived: {}", code(waiver)));
        }
    }
    if findings.len() > SHOWN {
        page.line(&format!("- and {} more", findings.len() - SHOWN));
    }
}

fn since(page: &mut Page, changes: &Changes) {
    let Some(previous) = &changes.previous else {
        page.heading("### Changes");
        page.line("The server is new: nothing is published under this name.");
        return;
    };
    page.heading(&format!("### Changes since version {}", code(previous.version.as_str())));
    if changes.published_already {
        page.line("**This version is published already, and a published version never changes.**");
        page.line("");
    }
    for change in &changes.fields {
        let value = |value: &Option<String>| value.as_deref().map_or("nothing".to_owned(), code);
        page.line(&format!("- {}: {} → {}", code(&change.field), value(&change.before), value(&change.after)));
    }
    for platform in &changes.platforms {
        page.line(&format!("- Files for {}: {}", code(platform.platform.as_str()), platform.counts()));
        paths(page, "New capabilities", &platform.capabilities_added.shown());
        paths(page, "Capabilities gone", &platform.capabilities_removed);
        paths(page, "New executables", &platform.executables);
        paths(page, "New packages", &platform.packages_added);
        paths(page, "Changed packages", &platform.packages_changed);
        paths(page, "Packages gone", &platform.packages_removed);
        paths(page, "Added", &platform.added);
        paths(page, "Changed", &platform.changed);
        paths(page, "Removed", &platform.removed);
    }
}

fn paths(page: &mut Page, what: &str, list: &Paths) {
    if list.count == 0 {
        return;
    }
    let shown = list.paths.len().min(SHOWN);
    let mut line = format!("  - {what}: {}", texts(&list.paths[..shown]));
    if list.count > shown {
        let _ = write!(line, " and {} more", list.count - shown);
    }
    page.line(&line);
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn nothing_leaves_a_code_span() {
        assert_eq!(code("plain"), "`plain`");
        assert_eq!(code("a`b``c"), "```a`b``c```");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(code(" a "), "`  a  `");
        assert_eq!(code(""), "(empty)");
        assert_eq!(code("x\n# @all <b>\r\u{202e}"), "`x\\n# @all <b>\\r\\u{202e}`");
    }

    proptest::proptest! {
        /// The opening fence, a text without line breaks and without a run of that length, and
        /// the closing fence: by CommonMark one code span.
        #[test]
        fn any_text_is_one_code_span(text in "\\PC*|[`a @\\[\\]()<>\\n|\\\\]{0,40}") {
            let span = code(&text);
            if text.is_empty() {
                return Ok(());
            }
            let fence = span.len() - span.trim_start_matches('`').len();
            let inner = &span[fence..span.len() - fence];
            proptest::prop_assert!(span.ends_with(&"`".repeat(fence)));
            proptest::prop_assert_eq!(span.lines().count(), 1);
            proptest::prop_assert!(!inner.ends_with('`') && !inner.starts_with('`'));
            let runs = inner.split(|c| c != '`').map(str::len).max().unwrap_or(0);
            proptest::prop_assert!(runs < fence);
        }
    }
}
