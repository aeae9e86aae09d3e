//! Guesses from what `pip install --target` leaves, and from a program at the root.

use std::collections::BTreeMap;

use mcpfs_trust::tree::NodeId;

use super::guess::{Guesses, Looked, fill, start};
use super::words;
use crate::bundle;
use crate::check::dependencies;

/// A package with a program of its own.
struct Package {
    folder: String,
    name: String,
    version: String,
    summary: Option<String>,
    licence: Option<String>,
    /// `module:function`
    entry: String,
}

pub(super) fn look(looked: &Looked<'_>, guesses: &mut Guesses) {
    let mut found: Vec<Package> = Vec::new();
    for id in looked.tree.children(NodeId::ROOT) {
        let Some(node) = looked.tree.node(*id) else { continue };
        if node.name.ends_with(".dist-info") {
            found.extend(package(looked, node.name));
        }
    }
    // The protocol's own library has a program too, and so have many others.
    let servers =
        |package: &&Package| package.name.contains("mcp") && !matches!(package.name.as_str(), "mcp" | "fastmcp");
    let project = looked.named.project.as_deref();
    let own = |package: &&Package| project.is_some_and(|project| bundle::pypi::normal(&package.name) == project);
    let mut named: Vec<&Package> = match project {
        Some(_) => found.iter().filter(own).collect(),
        None => found.iter().filter(servers).collect(),
    };
    if project.is_none() && named.is_empty() && found.len() == 1 {
        named.extend(&found);
    }
    match named.as_slice() {
        [] => program(looked, guesses),
        [one] => take(looked, guesses, one),
        _ => {
            let names: Vec<&str> = named.iter().map(|package| package.name.as_str()).collect();
            let remark = format!("several Python packages with programs ({}): name the server's", names.join(", "));
            guesses.remarks.push(mcpfs_trust::error::bounded(&remark));
        }
    }
}

fn package(looked: &Looked<'_>, folder: &str) -> Option<Package> {
    let metadata = looked.text(&format!("{folder}/METADATA"))?;
    let header = |name: &str| {
        let mut lines = metadata.lines().take_while(|line| !line.is_empty());
        lines.find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|it| it.1))
    };
    let points = looked.text(&format!("{folder}/entry_points.txt"))?;
    let scripts = points.lines().map(str::trim).skip_while(|line| *line != "[console_scripts]").skip(1);
    let mut scripts = scripts.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    let entry = scripts.next()?.1.trim().to_owned();
    Some(Package {
        folder: folder.to_owned(),
        name: header("Name")?.to_lowercase(),
        version: header("Version")?.to_owned(),
        summary: header("Summary").map(str::to_owned),
        licence: dependencies::wheel_package(&metadata).and_then(|package| package.licence),
        entry,
    })
}

fn take(looked: &Looked<'_>, guesses: &mut Guesses, package: &Package) {
    let metadata = format!("{}/METADATA", package.folder);
    fill(&mut guesses.name, Some(package.name.clone()), &metadata);
    fill(&mut guesses.version, words::version(&package.version), &metadata);
    fill(&mut guesses.description, package.summary.as_deref().and_then(words::line), &metadata);
    fill(&mut guesses.licence, package.licence.as_deref().and_then(words::line), &metadata);
    let Some((module, function)) = package.entry.split_once(':') else { return };
    let function = function.split([' ', '[']).next().unwrap_or_default();
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
    if !plain(module) || !plain(function) {
        return;
    }
    let top = module.split('.').next().unwrap_or(module);
    let args = match looked.is_file(&format!("{}/__main__.py", top.replace('.', "/"))) {
        true => vec!["-m".to_owned(), top.to_owned()],
        // What a console script does.
        false => vec!["-c".to_owned(), format!("import sys; from {module} import {function}; sys.exit({function}())")],
    };
    let env = BTreeMap::from([("PYTHONPATH".to_owned(), "${TREE}".to_owned())]);
    fill(&mut guesses.launch, Some(start("python3", args, env)), &format!("{}/entry_points.txt", package.folder));
}

/// A program at the root.
fn program(looked: &Looked<'_>, guesses: &mut Guesses) {
    for path in ["__main__.py", "server.py", "main.py", "src/server.py"] {
        if looked.is_file(path) {
            let launch = start("python3", vec![format!("${{TREE}}/{path}")], BTreeMap::new());
            return fill(&mut guesses.launch, Some(launch), path);
        }
    }
}
