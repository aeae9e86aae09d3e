//! Names and versions of others, made into ours.

use mcpfs_trust::name::{BadName, ServerName, Version};

/// `@scope/Server_Name` becomes `server_name`; what a name may not have becomes `-`.
pub(super) fn server_name(text: &str) -> Result<ServerName, BadName> {
    let last = text.rsplit(['/', ':']).find(|part| !part.is_empty()).unwrap_or(text);
    let folded: String = last
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
            _ => '-',
        })
        .collect();
    let mut name: String = folded.trim_matches(['-', '.', '_']).chars().take(64).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    name.parse()
}

/// `v1.2.0` becomes `1.2.0`.
pub(super) fn version(text: &str) -> Option<Version> {
    text.trim().trim_start_matches('v').parse().ok()
}

/// One line, as a recipe's text field takes it.
pub(super) fn line(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(300).filter(|c| !c.is_control()).collect();
    (!line.is_empty()).then_some(line)
}

/// A variable's name that says that its value is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let words = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];
    let name = name.to_uppercase();
    words.iter().any(|word| name.split('_').any(|part| part == *word || part.ends_with(word)))
}
