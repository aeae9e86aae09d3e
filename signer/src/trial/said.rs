//! What a conversation is about: tools, an answer, and what went wrong.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::text::visible;
use serde::Serialize;
use serde_json::Value;

/// Longest description that is kept, characters.
const DESCRIPTION: usize = 4000;

/// A tool as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What a model reads about it; nothing invisible is left in it.
    pub description: String,
    /// The digest of its input schema, as JSON with sorted keys.
    pub schema: Digest,
    /// The names of the schema's properties; required ones with `*`.
    pub parameters: Vec<String>,
    /// The digest of everything else that describes it (title, annotations, output schema).
    pub rest: Digest,
}

/// The answer of a tool that was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Called {
    /// The tool.
    pub tool: String,
    /// Whether it says that it failed.
    pub failed: bool,
    /// The beginning of its answer.
    pub answer: String,
}

/// What went wrong in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "trouble", rename_all = "snake_case")]
pub enum Trouble {
    /// No answer in time.
    Silent {
        /// What was asked.
        method: String,
        /// How long it was waited for, seconds.
        seconds: u64,
    },
    /// It ended, or closed its output, instead of answering.
    Gone {
        /// What was asked.
        method: String,
        /// How it ended, if it did.
        ended: Option<String>,
    },
    /// It answered with an error.
    Refused {
        /// What was asked.
        method: String,
        /// What it said.
        message: String,
    },
    /// It answered something else than the protocol has.
    Answer {
        /// What was asked.
        method: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It wrote text that is not JSON-RPC to its standard output.
    Text {
        /// The first lines.
        lines: Vec<String>,
        /// How many lines.
        count: usize,
    },
    /// It did too much of something.
    Flood {
        /// Of what.
        what: String,
    },
    /// It goes on after its input has ended.
    Lingers {
        /// How long it was waited for, seconds.
        seconds: u64,
    },
    /// Somebody asked to stop.
    Stopped,
}

/// A tool of `tools/list`.
pub(super) fn tool(value: &Value) -> Option<Tool> {
    let name = value["name"].as_str()?;
    let schema = value.get("inputSchema").filter(|schema| schema.is_object())?;
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten().take(100);
    let parameters = properties
        .map(|(name, _)| format!("{}{}", bounded(name), if required.contains(&name.as_str()) { "*" } else { "" }));
    let description: String = value["description"].as_str().unwrap_or_default().chars().take(DESCRIPTION).collect();
    let mut rest = value.clone();
    if let Some(map) = rest.as_object_mut() {
        for known in ["name", "description", "inputSchema"] {
            map.remove(known);
        }
    }
    Some(Tool {
        name: bounded(name),
        description: visible(&description),
        schema: digest(schema),
        parameters: parameters.collect(),
        rest: digest(&rest),
    })
}

/// The same for two texts that say the same.
fn digest(value: &Value) -> Digest {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                out.push('{');
                for key in keys {
                    out.push_str(&Value::String(key.clone()).to_string());
                    out.push(':');
                    write(&map[key], out);
                    out.push(',');
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for item in items {
                    write(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut text = String::new();
    write(value, &mut text);
    Digest::of(text.as_bytes())
}
