//! What is wrong with a text that is not YAML, for people who write recipes.
//!
//! The parser speaks of tokens and contexts; an author sees a line. Each of its complaints that
//! an author can cause is said here as what stands there and what would be right, by an example.
//! Complaints are told by the parser's words (its types do not tell them apart) and the line it
//! points at; one that is not known here keeps the parser's words, with the form of a recipe.

use mcpfs_trust::error::bounded;

use crate::recipe::Position;

/// What is wrong at `at` of `text`, where the parser said `said`.
pub(super) fn of(said: &str, at: Position, text: &str) -> String {
    // The parser advises its own caller behind the comma.
    let said = said.split(", set ").next().unwrap_or(said);
    let line = line(text, at.line);
    let column = usize::try_from(at.column).unwrap_or(usize::MAX).saturating_sub(1);
    let before: String = line.chars().take(column).collect();
    let here = line.chars().nth(column);
    let says = |word: &str| said.contains(word);
    let plain = if says("nchors") || says("alias") {
        "anchors and aliases are not allowed in a recipe: write the value itself; a text that begins with & or * is \
         in quotes, such as \"*\""
    } else if says("merge keys") {
        "merge keys (<<) are not allowed in a recipe: write each field where it belongs"
    } else if says("Documents") || says("multiple documents") {
        "a recipe is one document: remove this line and what follows, or make it a recipe of its own"
    } else if says("recursion limit") || says("budget breached") {
        "nested too deeply, or too many values for a recipe"
    } else if says("unsupported tag") || says("!!") {
        "tags such as !x or !!x are not allowed in a recipe: write the value itself; a text that begins with ! is in \
         quotes, such as \"!x\""
    } else if says("tabs disallowed") {
        "a tab, where YAML takes only spaces: indent with spaces, such as \"  command: node\""
    } else if let Some(name) = said.strip_prefix("duplicate mapping key: ") {
        return duplicate(name, at, text);
    } else if says("mapping values are not allowed") && before.contains(": ") {
        "a second \": \" on this line: put the whole text in quotes, such as description: \"note: read only\""
    } else if says("mapping values are not allowed") {
        "indented more deeply than the line above, which has a value already: begin in the same column as that line"
    } else if says("did not find expected key") && before.trim().is_empty() {
        "indented unlike the lines around it: fields that belong together begin in the same column, such as two \
         spaces for all of launch"
    } else if says("trailing content") {
        "text behind the closing quote: the whole text is in one pair of quotes, and a ' between two ' is doubled, such \
         as 'it''s' or \"it's\""
    } else if says("did not find expected key") {
        "text behind the end of the value: put the whole text in quotes, such as \"[a], b\""
    } else if says("unclosed quote") {
        "the quote that begins here is never closed: write \"text\" or 'text'; a ' between two ' is doubled, such as \
         'it''s'"
    } else if says("unclosed bracket") {
        "the bracket that begins here is never closed: write [a, b] or {command: node}; a text with brackets is in \
         quotes"
    } else if says("illegal placement of ':'") {
        "a ':' inside [ ] or { }: if the bracket above should have ended, close it, such as scope: [a, b]; if it is \
         part of a text, put that in quotes"
    } else if says("misplaced bracket") {
        "a closing bracket without an opening one: write [a, b] or {command: node}; a text with brackets is in quotes"
    } else if says("unknown escape") {
        "between two \" a backslash begins an escape: write the text between two ' instead, such as 'C:\\dir'"
    } else if says("block sequence entries are not allowed") {
        "a list does not begin with - on its field's own line: write scope: [a, b], or each - on a line of its own \
         below it"
    } else if says("simple key expected") {
        "no field: write \"name: value\", with a space after the colon"
    } else if says("parsing a flow") {
        "items in [ ] and fields in { } are separated by commas, and a text with one of [ ] { } , is in quotes, such \
         as args: [\"${TREE}/index.js\", serve]"
    } else if says("implicit flow mapping") {
        "an item is missing beside a comma: write [a, b]"
    } else if says("expected string scalar") {
        "the name of a field is a word, such as name: value"
    } else if says("unexpected character") {
        return character(here);
    } else {
        return format!(
            "not YAML: {}; a recipe's lines are such as \"name: value\", and fields below a field are indented by spaces",
            bounded(said.trim_end_matches([':', ',', ' ']))
        );
    };
    plain.to_owned()
}

fn line(text: &str, number: u32) -> &str {
    let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    text.lines().nth(index).unwrap_or_default()
}

/// Names the first one as well, if it stands in the same column above.
fn duplicate(name: &str, at: Position, text: &str) -> String {
    let shown = bounded(name);
    let indent = at.column.saturating_sub(1);
    let above = usize::try_from(at.line).unwrap_or(usize::MAX).saturating_sub(1);
    let first = text.lines().take(above).enumerate().collect::<Vec<_>>().into_iter().rev().find(|(_, line)| {
        let spaces = line.chars().take_while(|c| *c == ' ').count();
        u32::try_from(spaces) == Ok(indent)
            && line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(':'))
    });
    match first {
        Some((index, _)) => {
            format!("the field {shown} stands here a second time, first on line {}: keep one of them", index + 1)
        }
        None => format!("the field {shown} stands here a second time: keep one of them"),
    }
}

fn character(found: Option<char>) -> String {
    match found {
        Some(c) if !c.is_control() => {
            format!("a text cannot begin with {c}: put it in quotes, such as \"{c}text\"")
        }
        Some(c) => format!("the invisible character U+{:04X}: remove it", c as u32),
        None => "an invisible character: remove it".to_owned(),
    }
}
