//! Rules that look at a tree.

use std::collections::HashMap;

use mcpfs_trust::release::Runtime;
use mcpfs_trust::text::{is_invisible, visible};
use mcpfs_trust::tree::{Kind, NodeId, Tree};
use unicode_normalization::{UnicodeNormalization as _, is_nfc};

use super::finding::Findings;
use super::rules::{
    IMAGE_DEVICE, LAUNCH_ARGUMENT, LAUNCH_ARGUMENT_UNCLEAR, LAUNCH_COMMAND, LINK_DANGLING, LINK_REWRITTEN,
    MADE_EXECUTABLE, NAME_BIDI, NAME_CASE, NAME_FORM, Rule, SPECIAL_BITS,
};
use crate::launch::{DEFAULT_PATH, in_path, quoted};
use crate::recipe::Recipe;
use crate::unpack::Remark;

/// All rules for one artefact, which stands at `field` of the recipe.
pub(crate) fn check(recipe: &Recipe, field: &str, tree: &Tree, remarks: &[Remark], findings: &mut Findings) {
    let place = recipe.place(field);
    let mut all = |rule: &Rule, found: Vec<(String, String)>, fix: &str| {
        findings.extend_bounded(found.into_iter().map(|(subject, message)| {
            let finding = rule.find(&subject, message).at(recipe.file(), Some(place));
            if fix.is_empty() { finding } else { finding.fix(fix) }
        }));
    };
    all(&SPECIAL_BITS, special_bits(remarks), "");
    all(&LINK_REWRITTEN, rewritten(remarks), "");
    all(&MADE_EXECUTABLE, made_executable(remarks), "");
    all(&IMAGE_DEVICE, devices(remarks), "");
    all(&LINK_DANGLING, dangling(tree), "ship what it links to, or drop the link");
    all(&NAME_CASE, same_but_for_case(tree), "rename one of them: on some systems they are one file");
    all(&NAME_FORM, not_nfc(tree), "rename it in NFC: two spellings look the same");
    all(&NAME_BIDI, invisible(tree), "rename it: what people see is not what it is");
    command(recipe, tree, findings);
    arguments(recipe, tree, findings);
}

/// A server starts in its state directory, which its user can write, so a relative argument is
/// looked for there and never in the tree (docs/decisions/0004). An argument is bytes, and only
/// its author knows what it means: what can only be meant as a file of the tree is an error,
/// what could also be a word of the server's own is for the reviewer.
fn arguments(recipe: &Recipe, tree: &Tree, findings: &mut Findings) {
    let Some(launch) = recipe.launch.as_ref().filter(|launch| launch.runtime == Runtime::Host) else { return };
    for (index, argument) in launch.args.iter().enumerate() {
        // `--config=x` as well as `x`.
        let (option, value) = match argument.split_once('=') {
            Some((option, value)) if option.starts_with('-') => (format!("{option}="), value),
            _ => (String::new(), argument.as_str()),
        };
        let path = value.trim_start_matches("./").trim_end_matches('/');
        if path.is_empty() || path == "." || value.starts_with('/') {
            continue;
        }
        let Some(node) = tree.resolve(path).and_then(|id| tree.node(id)) else { continue };
        let file = matches!(node.kind, Kind::File { .. });
        let what = if file { "file" } else { "directory" };
        let spelled = value.contains(['/', '.']);
        if !file && !spelled {
            // Such as a module's name behind `python -m`.
            continue;
        }
        let rule = match file && spelled && option.is_empty() && launch.tree_path().is_none() {
            true => LAUNCH_ARGUMENT,
            false => LAUNCH_ARGUMENT_UNCLEAR,
        };
        let message = format!(
            "{argument:?} is a {what} of the artefact, but the server starts in its state directory and would look there"
        );
        // In quotes: inside [ ] YAML takes a bare { for a mapping.
        let mut fix = format!(
            "write \"{option}${{TREE}}/{path}\" for the {what} of the artefact, or \"{option}${{STATE}}/{path}\" for one \
             that the server makes"
        );
        if rule == LAUNCH_ARGUMENT_UNCLEAR {
            fix.push_str("; leave it if it is not a path");
        }
        let field = format!("launch.args[{index}]");
        findings.push(rule.find(&field, message).fix(fix).at(recipe.file(), Some(recipe.place(&field))));
    }
}

/// A command inside the tree must be there and executable, or every launch fails.
fn command(recipe: &Recipe, tree: &Tree, findings: &mut Findings) {
    let Some(launch) = &recipe.launch else { return };
    let image = launch.runtime == Runtime::Image;
    let mut found = |message: String, fix: String| {
        let finding = LAUNCH_COMMAND.find("launch.command", message).fix(fix);
        findings.push(finding.at(recipe.file(), Some(recipe.place("launch.command"))));
    };
    // No shell splits it: a line of words is one name that nothing has.
    let words = launch.command.split_once(char::is_whitespace);
    let split = words.map(|(program, rest)| {
        let args: Vec<String> = rest.split_whitespace().map(quoted).collect();
        format!("write command: {} and args: [{}]", quoted(program), args.join(", "))
    });
    // What an image's own `PATH` finds is a file of its tree.
    let path_variable = launch.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    if image && launch.tree_path().is_none() && in_path(&launch.command, path_variable, tree).is_some() {
        return;
    }
    let Some(path) = launch.tree_path() else {
        match (split, image) {
            (Some(fix), _) => found(format!("{:?} is a line of words; a command is one program", launch.command), fix),
            (None, true) => {
                let fix = "name a path inside it, without the first /, or a program that its PATH finds";
                found(format!("{:?} is not in the image's PATH", launch.command), fix.to_owned());
            }
            (None, false) => {}
        }
        return;
    };
    let (message, fix) = match tree.resolve(path).and_then(|id| tree.node(id)).map(|node| node.kind) {
        Some(Kind::File { executable: true, .. }) => return,
        Some(Kind::File { .. }) => ("is not executable in the artefact", "pack it with mode 0755"),
        Some(_) => ("is a directory", "name the program itself"),
        None => ("is not in the artefact", "name a path inside it, or a runtime such as node"),
    };
    found(format!("{path:?} {message}"), split.unwrap_or_else(|| fix.to_owned()));
}

fn special_bits(remarks: &[Remark]) -> Vec<(String, String)> {
    let found = remarks.iter().filter_map(|remark| match remark {
        Remark::SpecialBits { path, mode } => {
            Some((path.clone(), format!("mode {mode:04o}: its special bits are dropped")))
        }
        _ => None,
    });
    found.collect()
}

fn rewritten(remarks: &[Remark]) -> Vec<(String, String)> {
    let found = remarks.iter().filter_map(|remark| match remark {
        Remark::Rewritten { path, target } => {
            Some((path.clone(), format!("the absolute link to {target:?} now leads below the tree's root")))
        }
        _ => None,
    });
    found.collect()
}

fn made_executable(remarks: &[Remark]) -> Vec<(String, String)> {
    let found = remarks.iter().filter_map(|remark| match remark {
        Remark::MadeExecutable { path } => Some((path.clone(), "the bundle's program is made executable".to_owned())),
        _ => None,
    });
    found.collect()
}

fn devices(remarks: &[Remark]) -> Vec<(String, String)> {
    let found = remarks.iter().filter_map(|remark| match remark {
        Remark::Device { path } => Some((path.clone(), "a device or pipe of the image is left out".to_owned())),
        _ => None,
    });
    found.collect()
}

fn nodes(tree: &Tree) -> impl Iterator<Item = NodeId> {
    (1..tree.len()).map(NodeId)
}

fn dangling(tree: &Tree) -> Vec<(String, String)> {
    let links = nodes(tree).filter_map(|id| match tree.node(id)?.kind {
        Kind::Link { target } => Some((id, target)),
        _ => None,
    });
    let broken = links.filter(|(id, _)| tree.resolve(&tree.path(*id)).is_none());
    broken.map(|(id, target)| (tree.path(id), format!("the link to {target:?} leads nowhere"))).collect()
}

/// Names of one directory that are equal once case and Unicode form are folded away.
fn same_but_for_case(tree: &Tree) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for directory in (0..tree.len()).map(NodeId) {
        let children = tree.children(directory);
        if children.len() < 2 {
            continue;
        }
        let mut folded: HashMap<String, &str> = HashMap::new();
        for child in children {
            let Some(node) = tree.node(*child) else { continue };
            let key: String = node.name.nfkc().collect::<String>().to_lowercase().nfkc().collect();
            if let Some(other) = folded.insert(key, node.name) {
                found.push((
                    tree.path(*child),
                    format!("differs from {other:?} beside it only in case or Unicode form"),
                ));
            }
        }
    }
    found
}

fn not_nfc(tree: &Tree) -> Vec<(String, String)> {
    let odd = nodes(tree).filter(|id| tree.node(*id).is_some_and(|node| !is_nfc(node.name)));
    odd.map(|id| (tree.path(id), "is not in Unicode form NFC".to_owned())).collect()
}

/// Characters that show nothing or turn the direction of what follows.
fn invisible(tree: &Tree) -> Vec<(String, String)> {
    let odd = nodes(tree).filter_map(|id| {
        let found = tree.node(id)?.name.chars().find(|c| is_invisible(*c))?;
        Some((id, found))
    });
    odd.map(|(id, found)| (visible(&tree.path(id)), format!("has the invisible character U+{:04X}", found as u32)))
        .collect()
}
