//! Guesses from an image's config: its start, and the labels that builders write.

use super::guess::{Guesses, Looked, fill};
use super::words;
use crate::launch;

const FROM: &str = "the image's config";

pub(super) fn look(looked: &Looked<'_>, guesses: &mut Guesses) {
    let Some(config) = &looked.archive.image else { return };
    let label = |name: &str| {
        let labels = config.start.labels.as_ref()?;
        labels.get(&format!("org.opencontainers.image.{name}"))?.as_str()
    };
    fill(&mut guesses.version, label("version").and_then(words::version), FROM);
    fill(&mut guesses.description, label("description").or_else(|| label("title")).and_then(words::line), FROM);
    fill(&mut guesses.licence, label("licenses").and_then(words::line), FROM);
    fill(&mut guesses.platform, config.platform.parse().ok(), FROM);
    if let Some(source) = label("source").and_then(words::line) {
        guesses.remarks.push(mcpfs_trust::error::bounded(&format!("{FROM} names its source: {source}")));
    }
    let derived = launch::derive_image(&config.start, looked.tree);
    let problems = derived.problems.iter().map(|problem| problem.message.clone());
    guesses.remarks.extend(problems.chain(launch::unmet(&config.start)));
    fill(&mut guesses.launch, derived.launch.filter(|_| derived.problems.is_empty()), FROM);
}
