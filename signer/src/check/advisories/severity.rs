//! How bad an advisory is: the words of advisory databases and of CVSS, on one scale.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The severity of an advisory, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The package itself is an attack; no policy lets it pass without a waiver.
    Malicious,
    /// CVSS 9.0 to 10.
    Critical,
    /// CVSS 7.0 to 8.9.
    High,
    /// CVSS 4.0 to 6.9.
    Moderate,
    /// CVSS below 4.0.
    Low,
    /// Nobody has rated it, or in a way that cannot be read.
    Unrated,
}

impl Level {
    /// What is denied where a policy does not say: what nobody has rated may be anything.
    pub(crate) const DENIED: [Self; 3] = [Self::Critical, Self::High, Self::Unrated];
    /// The words of a policy.
    pub(crate) const WORDS: [(&'static str, Self); 6] = [
        ("malicious", Self::Malicious),
        ("critical", Self::Critical),
        ("high", Self::High),
        ("moderate", Self::Moderate),
        ("low", Self::Low),
        ("unrated", Self::Unrated),
    ];

    /// The word of a database, such as `MODERATE`.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        let word = if word == "medium" { "moderate" } else { &word };
        Self::WORDS.iter().find(|(known, level)| *known == word && *level != Self::Unrated).map(|(_, level)| *level)
    }

    /// A CVSS vector of version 3 or 4.
    pub(super) fn of_vector(vector: &str) -> Option<Self> {
        match vector.parse::<cvss::Cvss>().ok()?.severity() {
            cvss::Severity::Critical => Some(Self::Critical),
            cvss::Severity::High => Some(Self::High),
            cvss::Severity::Medium => Some(Self::Moderate),
            // "None" is a score of 0.0, which says that it was rated.
            cvss::Severity::Low | cvss::Severity::None => Some(Self::Low),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malicious => "malicious",
            Self::Critical => "critical",
            Self::High => "high",
            Self::Moderate => "moderate",
            Self::Low => "low",
            Self::Unrated => "unrated",
        })
    }
}
