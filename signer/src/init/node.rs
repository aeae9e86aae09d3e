//! Guesses from `package.json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::guess::{Guesses, Looked, common, fill, guess, start};
use super::words;

/// The artefact's own package; or the package that it was installed for: one that the root's
/// `package.json` depends on, and that has a program.
pub(super) fn look(looked: &Looked<'_>, guesses: &mut Guesses) {
    const ROOT: &str = "package.json";
    let Some(root) = looked.json(ROOT) else { return };
    if let Some(main) = program(&root, |path| looked.is_file(path)) {
        return take(looked, guesses, &root, "", &main, ROOT);
    }
    let installed = root["dependencies"].as_object().into_iter().flatten().filter_map(|(name, _)| {
        let folder = format!("node_modules/{name}/");
        let package = looked.json(&format!("{folder}{ROOT}"))?;
        let main = program(&package, |path| looked.is_file(&format!("{folder}{path}")))?;
        Some((folder, package, main))
    });
    let mut installed: Vec<_> = installed.collect();
    if installed.len() > 1 {
        let remark = "package.json depends on several packages with programs: name the server's";
        return guesses.remarks.push(remark.to_owned());
    }
    match installed.pop() {
        Some((folder, package, main)) => {
            let from = format!("{folder}{ROOT}");
            take(looked, guesses, &package, &folder, &main, &from);
        }
        None => common(guesses, &root, ROOT),
    }
}

fn take(looked: &Looked<'_>, guesses: &mut Guesses, package: &Value, folder: &str, main: &str, from: &str) {
    common(guesses, package, from);
    let author = &package["author"];
    let author = author.as_str().or_else(|| author["name"].as_str());
    if let Some(author) = author.and_then(words::line) {
        let remark = format!("{from} names the author {author}; the maintainer is who answers for it in your company");
        guesses.remarks.push(mcpfs_trust::error::bounded(&remark));
    }
    let path = format!("{folder}{main}");
    fill(&mut guesses.launch, Some(start("node", vec![format!("${{TREE}}/{path}")], BTreeMap::new())), from);
    let text = looked.text(&path).unwrap_or_default();
    for variable in variables(&text).into_iter().filter(|name| words::is_secret(name)) {
        guesses.credentials.push(guess(variable, &path));
    }
}

/// The file that Node starts: the only `bin`, or the one called as the package; else `main` of a
/// package that is not only a library of others.
fn program(package: &Value, is_file: impl Fn(&str) -> bool) -> Option<String> {
    let bin = &package["bin"];
    let own = package["name"].as_str().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let path = match bin.as_object() {
        Some(map) if map.len() == 1 => map.values().next()?.as_str()?,
        Some(map) => map.get(own)?.as_str()?,
        None => bin.as_str().or_else(|| package["main"].as_str())?,
    };
    let path = path.trim_start_matches("./").to_owned();
    is_file(&path).then_some(path)
}

/// The variables that a program reads.
fn variables(text: &str) -> Vec<String> {
    let mut found: Vec<String> = text
        .match_indices("process.env.")
        .map(|(at, read)| {
            let rest = &text[at + read.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            rest[..end.min(100)].to_owned()
        })
        .filter(|name| !name.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}
