//! Rules about the launch that an artefact brings, and what becomes of it.

#[cfg(test)]
mod tests;

use mcpfs_trust::error::bounded;
use mcpfs_trust::limits;
use mcpfs_trust::release::{Launch, Runtime};
use mcpfs_trust::tree::Tree;

use super::finding::Findings;
use super::rules::{
    BUNDLE_CREDENTIAL, BUNDLE_MANIFEST, BUNDLE_PLATFORM, BUNDLE_RESOLVED, BUNDLE_UNREAD, IMAGE_LAUNCH, IMAGE_PLATFORM,
    IMAGE_UNMET, LAUNCH_DERIVED, LAUNCH_DIFFERS, LAUNCH_UNLIKE, Rule,
};
use crate::image::Config;
use crate::launch::{self, Derived, quoted};
use crate::recipe::{ArtefactSource, Position, Recipe};
use crate::unpack::Archive;
use crate::unpack::mcpb::{Manifest, ServerKind};

/// The launch of one artefact of a recipe: the recipe's own, or what the artefact says of
/// itself; `None` if there is neither.
pub(crate) fn of_artefact(
    recipe: &Recipe,
    source: &ArtefactSource,
    field: &str,
    (archive, tree): (&Archive, &Tree),
    findings: &mut Findings,
) -> Option<Launch> {
    let mut found = |rule: &Rule, subject: &str, message: String, fix: String| {
        let own = recipe.place(subject);
        // What the recipe does not have stands where the artefact does.
        let place = if own == Position::START { recipe.place(field) } else { own };
        let finding = rule.find(subject, message).at(recipe.file(), Some(place));
        findings.push(if fix.is_empty() { finding } else { finding.fix(fix) });
    };
    let own = recipe.launch.clone();
    if let Some(config) = &archive.image {
        return of_image(recipe, source, field, config, tree, &mut found);
    }
    let manifest = match (&archive.manifest, &own) {
        (None, _) => return own,
        (Some(Ok(manifest)), _) => manifest,
        (Some(Err(problem)), Some(_)) => {
            let fix = "correct manifest.json: other tools that read it may start something else".to_owned();
            found(&BUNDLE_UNREAD, field, problem.clone(), fix);
            return own;
        }
        (Some(Err(problem)), None) => {
            let fix = "correct manifest.json, or write launch in the recipe".to_owned();
            found(&BUNDLE_MANIFEST, field, problem.clone(), fix);
            return None;
        }
    };
    platform(manifest, source, field, &mut found);
    let derived = launch::derive(manifest);
    match own {
        Some(own) => {
            compare(&own, Some(manifest), &derived, &mut found);
            Some(own)
        }
        None => take(recipe, field, derived, "bundle's manifest", &mut found),
    }
}

/// What an image's launch is taken from, in words.
const IMAGE: &str = "image's config";

fn of_image(
    recipe: &Recipe,
    source: &ArtefactSource,
    field: &str,
    config: &Config,
    tree: &Tree,
    found: &mut Found<'_>,
) -> Option<Launch> {
    if source.platform.to_string() != config.platform {
        let message = format!("the image is for {}, the recipe says {}", bounded(&config.platform), source.platform);
        let fix = format!("write platform: {}, or pin the manifest of another platform", bounded(&config.platform));
        found(&IMAGE_PLATFORM, field, message, fix);
    }
    for message in launch::unmet(&config.start) {
        found(&IMAGE_UNMET, field, message, "ask its author, or see that the server does without".to_owned());
    }
    let derived = launch::derive_image(&config.start, tree);
    match recipe.launch.clone() {
        Some(own) => {
            if own.runtime == Runtime::Image {
                compare(&own, None, &derived, found);
            }
            Some(own)
        }
        None => take(recipe, field, derived, IMAGE, found),
    }
}

/// What a finding is made of: the rule, the field, the message and the fix.
type Found<'a> = dyn FnMut(&Rule, &str, String, String) + 'a;

fn platform(manifest: &Manifest, source: &ArtefactSource, field: &str, found: &mut Found<'_>) {
    let platforms = &manifest.compatibility.platforms;
    if !platforms.is_empty() && !platforms.iter().any(|name| name == "linux") {
        let message = format!("the bundle says that it runs on {} only", platforms.join(", "));
        found(&BUNDLE_PLATFORM, field, message, "ask its author for one that runs on Linux".to_owned());
    }
    if manifest.server.kind == ServerKind::Binary && source.platform.is_any() {
        let message = "a binary bundle without a platform: hosts of another kind would start it and fail".to_owned();
        found(&BUNDLE_PLATFORM, field, message, "add platform, such as platform: linux/amd64".to_owned());
    }
}

/// A recipe's own launch wins, but a reviewer knows where it says something else.
fn compare(own: &Launch, manifest: Option<&Manifest>, derived: &Derived, found: &mut Found<'_>) {
    let uv = manifest.is_some_and(|manifest| manifest.server.kind == ServerKind::Uv);
    if uv && launch::downloads(&own.command) {
        let message = format!("the command is {}, which downloads what it starts", own.command);
        let fix = "pack all that the server needs, and start it with python3".to_owned();
        return found(&BUNDLE_RESOLVED, "launch.command", message, fix);
    }
    let (Some(theirs), true) = (&derived.launch, derived.problems.is_empty()) else { return };
    let mut fields = Vec::new();
    if own.command != theirs.command {
        fields.push("command".to_owned());
    }
    if own.args != theirs.args {
        fields.push("args".to_owned());
    }
    if own.workdir != theirs.workdir {
        fields.push("workdir".to_owned());
    }
    let other = theirs.env.iter().filter(|(name, value)| own.env.get(*name) != Some(*value));
    fields.extend(other.map(|(name, _)| format!("env.{name}")));
    if !fields.is_empty() {
        let what = if manifest.is_some() { "bundle" } else { "image" };
        let message =
            format!("the recipe's own launch is used; the {what} says something else in {}", fields.join(", "));
        found(&LAUNCH_DIFFERS, "launch", message, format!("if the {what} is right: {}", launch::yaml(theirs)));
    }
}

/// The artefact's launch, if nothing is open.
fn take(recipe: &Recipe, field: &str, derived: Derived, from: &str, found: &mut Found<'_>) -> Option<Launch> {
    let draft = derived.launch.as_ref().filter(|draft| draft.validate().is_ok()).map(launch::yaml);
    let draft = draft.filter(|draft| draft.len() <= limits::SIGNED_BYTES);
    for problem in &derived.problems {
        let write = match (&draft, problem.downloads) {
            (_, true) => String::new(),
            (Some(draft), false) => format!("write it in the recipe: {draft}"),
            (None, false) => "write launch in the recipe".to_owned(),
        };
        let parts: Vec<&str> = [write.as_str(), problem.fix.as_str()].into_iter().filter(|it| !it.is_empty()).collect();
        let rule = match (problem.downloads, from) {
            (true, _) => &BUNDLE_RESOLVED,
            (false, IMAGE) => &IMAGE_LAUNCH,
            (false, _) => &BUNDLE_MANIFEST,
        };
        found(rule, field, problem.message.clone(), parts.join("; "));
    }
    for secret in &derived.secrets {
        if recipe.credentials.iter().any(|own| own.env.as_ref() == Some(&secret.env)) {
            continue;
        }
        let mut message = format!("the variable {} takes the secret user_config.{}", secret.env, secret.key);
        if let Some(around) = &secret.around {
            message.push_str(&format!(", and the credential is its whole text, {around:?}"));
        }
        let reference = quoted(&format!("{}/{}", recipe.name, secret.key));
        let item = format!("{{env: {}, ref: {reference}}}", quoted(&secret.env));
        let fix = match recipe.credentials.is_empty() {
            true => format!("add credentials: [{item}]"),
            false => format!("add to credentials: {item}"),
        };
        found(&BUNDLE_CREDENTIAL, "credentials", message, fix);
    }
    if !derived.problems.is_empty() {
        return None;
    }
    let launch = derived.launch?;
    let mut message = format!("taken from the {from}, since the recipe has none");
    if !derived.left_out.is_empty() {
        message.push_str(&format!("; without a value and left out: {}", derived.left_out.join(", ")));
    }
    // A longer one than can be signed is told by the rule for that.
    let fix = draft.map(|draft| format!("to have it reviewed, write it in the recipe: {draft}"));
    found(&LAUNCH_DERIVED, "launch", message, fix.unwrap_or_default());
    Some(launch)
}

/// A release has one launch: the recipe without one gets what all its artefacts say.
pub(crate) fn settle(recipe: &mut Recipe, mut launches: Vec<Option<Launch>>, findings: &mut Findings) {
    if recipe.launch.is_some() {
        return;
    }
    if launches.windows(2).any(|pair| pair[0] != pair[1]) {
        let message = "missing, and the artefacts do not say the same of how they are started";
        let finding = LAUNCH_UNLIKE.find("launch", message).fix("write one launch that fits them all");
        return findings.push(finding.at(recipe.file(), Some(recipe.place("launch"))));
    }
    recipe.launch = launches.pop().flatten();
}
