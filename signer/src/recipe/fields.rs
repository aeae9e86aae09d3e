//! Reading typed fields from [`Node`]s and collecting everything that is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use super::yaml::{Key, Node, Value};
use super::{Position, Problem};

/// Where each field stands (by dotted path, list items by index) and what is wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) places: BTreeMap<String, Position>,
    pub(crate) problems: Vec<Problem>,
}

impl Reading {
    /// Notes a problem of `field`.
    pub(crate) fn problem(&mut self, at: Position, field: &str, message: impl Into<String>) {
        self.problems.push(Problem { at, field: field.to_owned(), message: message.into() });
    }

    /// The fields of a mapping; unknown ones are problems with a suggestion.
    pub(crate) fn fields(&mut self, node: &Node, path: &str, known: &'static [&'static str]) -> Option<Fields> {
        let Value::Map(entries) = &node.value else {
            self.problem(node.at, path, format!("expected a mapping, found {}", node.value.kind()));
            return None;
        };
        for (key, value) in entries {
            let full = join(path, &key.name);
            if known.contains(&key.name.as_str()) {
                self.places.insert(full, value.at);
            } else {
                self.problem(key.at, path, unknown(key, known));
            }
        }
        Some(Fields { at: node.at, path: path.to_owned(), entries: entries.clone() })
    }

    /// A text of one field.
    pub(crate) fn text(&mut self, node: &Node, field: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            other => {
                self.problem(node.at, field, format!("expected a text, found {}", other.kind()));
                None
            }
        }
    }

    /// A text of one field, parsed.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, node: &Node, field: &str) -> Option<T> {
        match self.text(node, field)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(node.at, field, error.to_string());
                None
            }
        }
    }

    /// A list of texts; the place of each is kept as `field[0]`, `field[1]`, …
    pub(crate) fn texts(&mut self, node: &Node, field: &str) -> Vec<String> {
        let Value::List(items) = &node.value else {
            self.problem(node.at, field, format!("expected a list, found {}", node.value.kind()));
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let field = format!("{field}[{index}]");
            texts.extend(self.text(item, &field));
            self.places.insert(field, item.at);
        }
        texts
    }

    /// A mapping of texts to texts.
    pub(crate) fn pairs(&mut self, node: &Node, field: &str) -> BTreeMap<String, String> {
        let Value::Map(entries) = &node.value else {
            self.problem(node.at, field, format!("expected a mapping, found {}", node.value.kind()));
            return BTreeMap::new();
        };
        let mut pairs = BTreeMap::new();
        for (key, value) in entries {
            let full = join(field, &key.name);
            self.places.insert(full.clone(), key.at);
            if let Some(text) = self.text(value, &full) {
                pairs.insert(key.name.clone(), text);
            }
        }
        pairs
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, node: &Node, field: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, field)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(node.at, field, format!("{text:?} is not one of: {}", allowed.join(", ")));
        }
        found
    }
}

/// A mapping's fields, already checked for unknown ones.
pub(crate) struct Fields {
    at: Position,
    path: String,
    entries: Vec<(Key, Node)>,
}

impl Fields {
    /// The dotted path of one field.
    pub(crate) fn path(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// A field that may be absent; an empty value (`field:`) counts as absent.
    pub(crate) fn optional(&self, name: &str) -> Option<&Node> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// A field that must be there.
    pub(crate) fn required(&self, name: &str, reading: &mut Reading) -> Option<&Node> {
        let found = self.optional(name);
        if found.is_none() {
            let empty = self.entries.iter().find(|(key, _)| key.name == name).map(|(key, _)| key.at);
            reading.problem(
                empty.unwrap_or(self.at),
                &self.path(name),
                match empty {
                    Some(_) => "must not be empty",
                    None => "missing",
                },
            );
        }
        found
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `unknown field "lawfull_basis": did you mean lawful_basis?`
fn unknown(key: &Key, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&key.name, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4);
    let name = mcpfs_trust::error::bounded(&key.name);
    match near {
        Some((_, near)) => format!("unknown field {name:?}: did you mean {near}?"),
        None => format!("unknown field {name:?}: known here are {}", known.join(", ")),
    }
}
