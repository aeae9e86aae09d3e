//! Exact fixes: what to write in the recipe, found in the server's own words and files.

use std::collections::BTreeMap;
use std::path::Path;

use super::observe::Observed;
use super::{Trial, Trouble, files};

/// Source files that are searched, and how much of each, bytes.
const SEARCHED: usize = 2000;
const SOURCE: u64 = 512 << 10;
/// How far from a file's name its variable stands, lines.
const NEAR: usize = 60;

/// A fix for each write, by the shown path.
pub(super) fn writes(observed: &Observed, tree: &Path) -> BTreeMap<String, String> {
    let mut fixes = BTreeMap::new();
    for write in &observed.writes {
        let name = write.path.rsplit('/').next().unwrap_or_default();
        let found = names(name).find_map(|name| Some((name, variable(observed, tree, name)?)));
        let fix = match found {
            Some((name, (variable, file))) => format!(
                "under launch.env set {variable}: \"${{STATE}}/{name}\" ({file} takes the place of {name} from it)"
            ),
            None if write.path.starts_with("${HOME}") => {
                "under launch.env set HOME: \"${STATE}\", or the XDG variable that the server follows".to_owned()
            }
            None => format!(
                "have the server write to \"${{STATE}}/{name}\", by the variable or argument that its documentation \
                 names; hosts show the tree read-only"
            ),
        };
        fixes.insert(write.path.clone(), fix);
    }
    fixes
}

/// A written file's name, and what it is without its endings: a careful server writes
/// `memory.jsonl.1f3a.tmp` first, and renames it.
fn names(name: &str) -> impl Iterator<Item = &str> {
    fn shorter<'a>(name: &&'a str) -> Option<&'a str> {
        name.rsplit_once('.').map(|(shorter, _)| shorter)
    }
    std::iter::successors(Some(name), shorter).take_while(|name| name.len() > 2)
}

/// The variable of the environment that stands nearest to `name` in a file that the server read.
fn variable(observed: &Observed, tree: &Path, name: &str) -> Option<(String, String)> {
    let source = |path: &&String| {
        let known = [".js", ".mjs", ".cjs", ".ts", ".py", ".rb", ".sh"];
        known.iter().any(|end| path.ends_with(end))
    };
    let mut best: Option<(usize, String, String)> = None;
    // The server's own files are opened last, those of its libraries before them.
    for path in observed.opened.iter().rev().filter(source).take(SEARCHED) {
        let Some(text) = files::text(&tree.join(path), SOURCE) else { continue };
        if !text.contains(name) {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        let named: Vec<usize> =
            lines.iter().enumerate().filter(|(_, line)| has_word(line, name)).map(|(at, _)| at).collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(distance) = named.iter().map(|named| named.abs_diff(at)).min().filter(|it| *it <= NEAR) else {
                continue;
            };
            for variable in variables(line) {
                // A variable that says what it is for beats one that happens to stand near.
                let speaks = ["FILE", "PATH", "DIR", "DB", "STORE"].iter().any(|word| variable.contains(word));
                let weight = distance + if speaks { 0 } else { NEAR };
                if best.as_ref().is_none_or(|(least, ..)| weight < *least) {
                    best = Some((weight, variable, mcpfs_trust::error::bounded(path)));
                }
            }
        }
    }
    best.map(|(_, variable, path)| (variable, path))
}

/// `memory.json` is not in `memory.jsonl`.
fn has_word(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let after = line[at + name.len()..].chars().next();
        !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The variables of the environment that a line of a program reads.
fn variables(line: &str) -> Vec<String> {
    const READS: [&str; 7] =
        ["process.env.", "process.env[", "os.environ.get(", "os.environ[", "os.getenv(", "environ.get(", "ENV["];
    let mut found = Vec::new();
    for read in READS {
        for (at, _) in line.match_indices(read) {
            let rest = line[at + read.len()..].trim_start_matches(['"', '\'', '`']);
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            if name.len() > 1 && name.len() < 100 && !name.starts_with(|c: char| c.is_ascii_digit()) {
                found.push(name.to_owned());
            }
        }
    }
    found
}

/// The argument that a server misses, from what it printed.
pub(super) fn arguments(trial: &Trial, args: &[String]) -> Option<String> {
    let mut printed: Vec<&str> = Vec::new();
    for trouble in &trial.troubles {
        if let Trouble::Text { lines, .. } = trouble {
            printed.extend(lines.iter().map(String::as_str));
        }
    }
    let with = |more: &str| {
        let mut all: Vec<String> = args.iter().map(|arg| crate::launch::quoted(arg)).collect();
        all.push(crate::launch::quoted(more));
        format!("args: [{}]", all.join(", "))
    };
    printed.extend(trial.stderr.lines());
    let offers = |line: &str| {
        let line = line.to_lowercase();
        let runs = ["running", "started", "listening", "ready"].iter().any(|word| line.contains(word));
        !runs && line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "stdio")
    };
    let choice = printed.iter().any(|line| {
        let line = line.to_lowercase();
        let asks = ["available", "transport", "unknown", "choose"].iter().any(|word| line.contains(word));
        asks || (line.contains("usage") && line.contains("stdio"))
    });
    if choice && !args.iter().any(|arg| arg == "stdio") && printed.iter().any(|line| offers(line)) {
        return Some(format!("pass the argument stdio: under launch, {}", with("stdio")));
    }
    let usage = printed.iter().find_map(|line| {
        let at = line.to_lowercase().find("usage:")?;
        line.get(at + 6..)
    })?;
    // The first word in brackets that is no option: <dir>, [allowed-directory].
    let placeholder = usage.split_whitespace().find_map(|word| {
        let inner = word.trim_matches(|c: char| matches!(c, '.' | ',' | ';' | '"' | '\''));
        let inner = inner.strip_prefix('<').or_else(|| inner.strip_prefix('['))?;
        let inner = inner.trim_end_matches(['>', ']', '.']);
        (!inner.is_empty() && !inner.starts_with('-') && inner != "options" && inner != "OPTIONS").then_some(inner)
    })?;
    let placeholder = mcpfs_trust::error::bounded(placeholder);
    Some(format!(
        "it needs the argument {placeholder}: under launch, {} (or accept_args with a pattern, for a value of each host)",
        with(if is_place(&placeholder) { "${STATE}" } else { &placeholder })
    ))
}

fn is_place(placeholder: &str) -> bool {
    let lower = placeholder.to_lowercase();
    ["dir", "path", "folder"].iter().any(|word| lower.contains(word))
}
