//! Where a setting stands, for whoever is told that it is wrong.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::texts::Text;

/// Where the setting stands that a text begins with, such as `credentials.dw/readonly.groups: …`: the last file that
/// has it, and the line.
pub(super) fn place(problem: &str, files: &[Text]) -> Option<(PathBuf, usize)> {
    files.iter().rev().find_map(|Text { path, text, .. }| Some((path.clone(), line(problem, text)?)))
}

fn line(problem: &str, text: &str) -> Option<usize> {
    let whole = DeTable::parse(text).ok()?;
    let (mut table, mut rest) = (whole.get_ref(), problem);
    loop {
        // A key can have dots itself: the longest that fits.
        let fitting = table.iter().filter_map(|(key, value)| {
            let after = rest.strip_prefix(key.get_ref().as_ref())?;
            (after.is_empty() || after.starts_with(['.', ' ', ':'])).then_some((key, value, after))
        });
        let (key, value, after) = fitting.min_by_key(|(.., after)| after.len())?;
        match (after.strip_prefix('.'), value.get_ref()) {
            (Some(inner), DeValue::Table(next)) => (table, rest) = (next, inner),
            (Some(_), _) => return None,
            (None, _) => {
                let before = text.as_bytes().get(..key.span().start)?;
                return Some(before.iter().filter(|byte| **byte == b'\n').count() + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_last_file_and_its_line() {
        let file = |path: &str, text: &str| Text { path: path.into(), text: text.to_owned(), public: true };
        let files = [
            file("main", "[access]\ndefault = \"a\"\n[credentials.\"a.b\"]\nfile = \"/x\"\n"),
            // The same name in another table comes first.
            file("drop", "[pins]\nhello = \"1\"\n[access.servers]\n\"fin-*\" = \"b\"\nhello = \"c\"\n"),
            file("last", "[credentials.\"a.b\"]\nservers = [\n\"pg\"]\ngroups = [\"g\"]\n[credentials.a]\n"),
        ];
        for (problem, at) in [
            ("access.default: no", ("main", 2)),
            ("access.servers.fin-*: no", ("drop", 4)),
            ("access.servers.hello", ("drop", 5)),
            ("credentials.a.b: no", ("last", 1)),
            ("credentials.a.b.groups: no", ("last", 4)),
            ("credentials.a.b.file: no", ("main", 4)),
            ("credentials.a = 1: no", ("last", 5)),
        ] {
            assert_eq!(place(problem, &files), Some((at.0.into(), at.1)), "{problem}");
        }
        for problem in
            ["access.servers.other: no", "access.default.a: no", "credentials.a.c", "[registry] has no url", ""]
        {
            assert_eq!(place(problem, &files), None, "{problem}");
        }
    }
}
