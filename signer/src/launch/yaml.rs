//! A launch as one line of YAML, to be pasted into a recipe.

use mcpfs_trust::release::{Launch, Runtime};

/// `launch: {command: node, args: ["${TREE}/server.js"]}`
pub fn yaml(launch: &Launch) -> String {
    let mut fields = vec![format!("command: {}", quoted(&launch.command))];
    if !launch.args.is_empty() {
        let args: Vec<String> = launch.args.iter().map(|arg| quoted(arg)).collect();
        fields.push(format!("args: [{}]", args.join(", ")));
    }
    if !launch.env.is_empty() {
        let pairs: Vec<String> =
            launch.env.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value))).collect();
        fields.push(format!("env: {{{}}}", pairs.join(", ")));
    }
    if launch.runtime == Runtime::Image {
        fields.push("runtime: image".to_owned());
    }
    if let Some(workdir) = &launch.workdir {
        fields.push(format!("workdir: {}", quoted(workdir)));
    }
    format!("launch: {{{}}}", fields.join(", "))
}

/// A text as YAML: bare if it can mean nothing else, or else in double quotes with everything
/// escaped that does not show.
pub fn quoted(text: &str) -> String {
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if bare {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() => out.push(c),
            c if u32::from(c) <= 0xff => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// What some reader of YAML takes for something else than a text.
const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
