//! Findings: what `check` has to say, for people, pipelines and pull requests.

use std::fmt;

use mcpfs_trust::error::bounded;
use serde::{Deserialize, Serialize};

use crate::recipe::RecipeErrors;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is signed while it stands.
    Error,
    /// A reviewer decides.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Its weight.
    pub severity: Severity,
    /// The rule's id: stable, listed in docs/publishing.md.
    pub rule: String,
    /// A field of the recipe by dotted path, or a path inside the artefact.
    pub subject: String,
    /// What is wrong, with the reason.
    pub message: String,
    /// The recipe's file.
    pub file: String,
    /// The line in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The waiver that lets it pass: until when, by whom, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiver: Option<String>,
}

/// The findings of one check, errors first, then in the order of the recipe's lines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

/// Findings shown of one rule; the rest are counted in a last one.
const SHOWN: usize = 20;

impl Finding {
    /// A finding without place and advice yet; hostile text in it is bounded and escaped.
    pub fn new(severity: Severity, rule: &str, subject: &str, message: impl fmt::Display) -> Self {
        Self {
            severity,
            rule: rule.to_owned(),
            subject: bounded(subject),
            message: bounded(&message.to_string()),
            file: String::new(),
            line: None,
            column: None,
            fix: None,
            waiver: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same at a place of the recipe `file`.
    #[must_use]
    pub fn at(mut self, file: &str, place: Option<crate::recipe::Position>) -> Self {
        self.file = bounded(file);
        self.line = place.map(|place| place.line);
        self.column = place.map(|place| place.column);
        self
    }
}

impl Findings {
    /// No findings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    /// Adds several.
    pub(crate) fn push_all(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.0.extend(findings);
    }

    /// Adds everything that is wrong with a recipe.
    pub fn push_recipe(&mut self, errors: &RecipeErrors) {
        for problem in &errors.problems {
            let finding = Finding::new(Severity::Error, "recipe", &problem.field, &problem.message);
            self.0.push(finding.at(&errors.file, Some(problem.at)));
        }
    }

    /// Adds findings of one rule; above twenty they are counted only.
    pub fn extend_bounded(&mut self, findings: impl IntoIterator<Item = Finding>) {
        let mut more: Option<(Finding, usize)> = None;
        for (index, finding) in findings.into_iter().enumerate() {
            match (&mut more, index < SHOWN) {
                (_, true) => self.0.push(finding),
                (None, false) => more = Some((finding, 1)),
                (Some((_, count)), false) => *count += 1,
            }
        }
        if let Some((mut last, count)) = more {
            last.subject = String::new();
            last.message = format!("and {count} more like these");
            last.fix = None;
            self.0.push(last);
        }
    }

    /// All of them, errors first.
    pub fn all(&self) -> &[Finding] {
        &self.0
    }

    /// All of them, to be weighed or waived.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Finding> {
        self.0.iter_mut()
    }

    /// The waivers that were applied, as the check record holds them.
    pub fn waivers(&self) -> Vec<String> {
        let waived =
            self.0.iter().filter_map(|one| Some(format!("{} {} {}", one.rule, one.subject, one.waiver.as_ref()?)));
        waived.collect::<std::collections::BTreeSet<String>>().into_iter().collect()
    }

    /// What keeps it from being signed.
    pub fn open_errors(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter().filter(|finding| finding.severity == Severity::Error && finding.waiver.is_none())
    }

    /// Whether something must not be signed.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many weigh so much and are not waived.
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|finding| finding.severity == severity && finding.waiver.is_none()).count()
    }

    /// Puts errors first and what is waived last, then the recipe's lines in order.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| {
            let key = |one: &Finding| (one.waiver.is_some(), one.severity, one.file.clone(), one.line, one.column);
            key(a).cmp(&key(b))
        });
    }

    /// `check: 1 error, 2 warnings`
    pub fn summary(&self) -> String {
        let waived = self.0.iter().filter(|finding| finding.waiver.is_some()).count();
        let mut counts: Vec<String> =
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
                .into_iter()
                .map(|(severity, word)| (self.count(severity), word))
                .filter(|(count, _)| *count > 0)
                .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
                .collect();
        if waived > 0 {
            counts.push(format!("{waived} waived"));
        }
        if counts.is_empty() { "check: ok".to_owned() } else { format!("check: {}", counts.join(", ")) }
    }

    /// The JSON form: a list of findings.
    pub fn json(&self) -> Vec<u8> {
        mcpfs_trust::json::encode(self)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// `error L7 lawful_basis: missing (required because data_classification is confidential)`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.severity)?;
        if let Some(line) = self.line {
            write!(f, " L{line}")?;
        }
        match self.subject.is_empty() {
            true => write!(f, " {}", self.message),
            false => write!(f, " {}: {}", self.subject, self.message),
        }
    }
}

/// The summary, and a line for each finding with its advice below.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        for finding in &self.0 {
            let waived = if finding.waiver.is_some() { "waived " } else { "" };
            write!(f, "\n· {waived}{finding} [{}]", finding.rule)?;
            if let Some(waiver) = &finding.waiver {
                write!(f, "\n    waived {waiver}")?;
                continue;
            }
            if let Some(fix) = &finding.fix {
                write!(f, "\n    fix: {fix}")?;
            }
        }
        Ok(())
    }
}
