//! YAML as a bounded tree of values that know their place in the text.
//!
//! serde gives one error and stops; a reviewer wants all of them, each with its line. So the
//! text becomes [`Node`]s first, and [`super::fields`] reads those and collects what is wrong.
//! Anchors, aliases, merge keys, tags of any application and second documents are refused:
//! what a reviewer sees on a line is what is there.

mod words;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned};

use super::{Position, Recipe};

/// Deepest nesting; the format has four levels.
const DEPTH: usize = 12;

/// How much one document may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes.
    pub(crate) bytes: usize,
    /// Values.
    pub(crate) nodes: usize,
}

/// A recipe: with every list full it still stays below.
const RECIPE: Bounds = Bounds { bytes: Recipe::BYTES, nodes: 4096 };

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// What a value is. A plain scalar keeps its spelling: `1.20` is a version, not a number.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) at: Position,
    pub(crate) name: String,
}

/// Why a text is not such YAML.
#[derive(Debug)]
pub(crate) struct BadYaml {
    pub(crate) at: Position,
    pub(crate) problem: String,
}

impl Value {
    /// What it is, for errors.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads a recipe's document.
pub(crate) fn parse(text: &str) -> Result<Node, BadYaml> {
    parse_bounded(text, RECIPE)
}

/// Reads one document.
pub(crate) fn parse_bounded(text: &str, Bounds { bytes, nodes }: Bounds) -> Result<Node, BadYaml> {
    if text.len() > bytes {
        return Err(BadYaml {
            at: Position::START,
            problem: format!("{} bytes; a recipe has at most {bytes}", text.len()),
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(bytes),
            max_depth: DEPTH,
            flow_nesting_limit: DEPTH,
            max_nodes: nodes,
            max_events: nodes * 4,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_documents: 1,
            max_total_scalar_bytes: bytes,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map_or(Position::START, |location| Position::of(&location));
        // Without its own "at line x, column y", which stands before it already.
        let said = error.without_snippet().to_string();
        let end = said.rfind(" at line ").or_else(|| said.rfind('\n')).unwrap_or(said.len());
        BadYaml { at, problem: words::of(&said[..end], at, text) }
    })?;
    place(raw, text)
}

/// Gives the values their places, and plain numbers back their spelling.
fn place(raw: Spanned<Raw>, text: &str) -> Result<Node, BadYaml> {
    let at = Position::of(&raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Text(value) => Value::Text(value),
        Raw::Number => match spelling(&raw.referenced, text) {
            Some(spelled) => Value::Text(spelled.trim().to_owned()),
            None => return Err(BadYaml { at, problem: "a number that must be written in quotes".to_owned() }),
        },
        Raw::List(items) => {
            Value::List(items.into_iter().map(|item| place(item, text)).collect::<Result<Vec<_>, _>>()?)
        }
        Raw::Map(entries) => {
            let mut map: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let key = Key { at: Position::of(&key.referenced), name: key.value };
                if map.iter().any(|(other, _)| other.name == key.name) {
                    let problem = format!("the field {:?} stands here a second time: keep one of them", key.name);
                    return Err(BadYaml { at: key.at, problem });
                }
                map.push((key, place(value, text)?));
            }
            Value::Map(map)
        }
    };
    Ok(Node { at, value })
}

fn spelling<'a>(location: &Location, text: &'a str) -> Option<&'a str> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let len = usize::try_from(span.byte_len()?).ok()?;
    text.get(start..start.checked_add(len)?)
}

/// A value as serde hands it over; depth and count are bounded by the parser's budget.
enum Raw {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;
        impl<'de> Visitor<'de> for AnyValue {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list or a mapping")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(value))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
                Ok(Raw::Number)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
                Ok(Raw::Number)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
                Ok(Raw::Number)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
                Ok(Raw::Number)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
                Ok(Raw::Number)
            }
            fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }
        deserializer.deserialize_any(AnyValue)
    }
}
