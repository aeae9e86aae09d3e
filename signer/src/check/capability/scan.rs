//! One look at one file.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::Capability;
use super::elf;
use super::markers::{Language, MARKERS, Marker, Shape};

/// The first place where a file shows a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) capability: Capability,
    pub(crate) line: Option<u32>,
    pub(crate) marker: &'static str,
}

/// How far back the beginning of a line, or of a comment's lines, is looked for, bytes.
const BACK: usize = 4096;
/// How far after `open(` its mode may stand, bytes.
const ARGUMENTS: usize = 256;

/// What a file of this language shows, in the order of its text.
pub(super) fn look(language: Language, text: &[u8]) -> Vec<Sighting> {
    match language {
        Language::None => Vec::new(),
        Language::Machine => elf::look(text),
        Language::Bytecode => vec![Sighting { capability: Capability::Native, line: None, marker: "bytecode" }],
        Language::JavaScript | Language::Python | Language::Shell => script(language, text),
    }
}

/// The markers of one language, and the texts that are searched for them.
struct Searcher {
    automaton: AhoCorasick,
    /// For each text of the automaton, its marker.
    markers: Vec<&'static Marker>,
}

impl Searcher {
    fn new(language: Language) -> Option<Self> {
        let mut texts = Vec::new();
        let mut markers = Vec::new();
        for marker in MARKERS.iter().filter(|marker| marker.language == language) {
            for text in marker.shape.texts(marker.text) {
                texts.push(text);
                markers.push(marker);
            }
        }
        // Only a table far too large for its automaton makes this fail; a test builds it.
        Some(Self { automaton: AhoCorasick::new(texts).ok()?, markers })
    }

    fn of(language: Language) -> Option<&'static Self> {
        static JAVASCRIPT: LazyLock<Option<Searcher>> = LazyLock::new(|| Searcher::new(Language::JavaScript));
        static PYTHON: LazyLock<Option<Searcher>> = LazyLock::new(|| Searcher::new(Language::Python));
        static SHELL: LazyLock<Option<Searcher>> = LazyLock::new(|| Searcher::new(Language::Shell));
        match language {
            Language::JavaScript => JAVASCRIPT.as_ref(),
            Language::Python => PYTHON.as_ref(),
            Language::Shell => SHELL.as_ref(),
            Language::Machine | Language::Bytecode | Language::None => None,
        }
    }
}

fn script(language: Language, text: &[u8]) -> Vec<Sighting> {
    let mut found: Vec<Sighting> = Vec::new();
    if language == Language::Shell {
        found.push(Sighting { capability: Capability::Exec, line: Some(1), marker: "a shell script" });
    }
    let Some(searcher) = Searcher::of(language) else { return found };
    for hit in searcher.automaton.find_overlapping_iter(text) {
        let marker = searcher.markers[hit.pattern().as_usize()];
        let known = found.iter().any(|sighting| sighting.capability == marker.capability);
        if known || !marker.shape.fits(text, hit.start(), hit.end()) || is_comment(language, text, hit.start()) {
            continue;
        }
        let line = 1 + text[..hit.start()].iter().filter(|byte| **byte == b'\n').count();
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        found.push(Sighting { capability: marker.capability, line: Some(line), marker: marker.text });
        if found.len() == Capability::ALL.len() {
            break;
        }
    }
    found
}

impl Shape {
    /// What is searched for.
    fn texts(self, text: &str) -> Vec<String> {
        match self {
            Self::Word | Self::Call | Self::Method | Self::Import | Self::Text | Self::OpenForWriting => {
                vec![text.to_owned()]
            }
            Self::Module => ['"', '\'', '`']
                .iter()
                .flat_map(|quote| [format!("{quote}{text}{quote}"), format!("{quote}node:{text}{quote}")])
                .collect(),
        }
    }

    /// Whether what stands around a hit makes it this marker.
    fn fits(self, text: &[u8], start: usize, end: usize) -> bool {
        let before = text[..start].last().copied();
        let after = text.get(end).copied();
        let bare = !before.is_some_and(is_word);
        match self {
            Self::Text => true,
            Self::Word => bare && !after.is_some_and(is_word),
            Self::Call => {
                // A method of that name is something else, unless it is the global one.
                let global = [&b"globalThis."[..], b"global.", b"window.", b"self.", b"builtins."];
                let own = before != Some(b'.') || global.iter().any(|name| text[..start].ends_with(name));
                bare && own && is_called(&text[end..])
            }
            Self::Method => is_called(&text[end..]),
            Self::Module => {
                if text[start + 1..].starts_with(b"node:") {
                    return true;
                }
                let head = text[start.saturating_sub(64)..start].trim_ascii_end();
                [&b"from"[..], b"import", b"require(", b"import(", b"getBuiltinModule("]
                    .iter()
                    .any(|word| head.ends_with(word))
            }
            Self::Import => {
                let line = line_before(text, start).trim_ascii_start();
                let imports = line.starts_with(b"import ") || line.starts_with(b"from ");
                bare && !after.is_some_and(is_word) && imports
            }
            Self::OpenForWriting => {
                let rest = &text[end..text.len().min(end + ARGUMENTS)];
                let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let parts: Vec<&[u8]> = line.split(|byte| b"\"'".contains(byte)).collect();
                let writes = parts.windows(2).any(|pair| {
                    let second = pair[0].trim_ascii_end().last().is_some_and(|byte| b",=".contains(byte));
                    second && is_write_mode(pair[1])
                });
                bare && before != Some(b'.') && writes
            }
        }
    }
}

/// `w`, `ab+`, `xt`: what `open` takes for writing.
fn is_write_mode(word: &[u8]) -> bool {
    let letters = word.iter().all(|byte| b"wabxt+r".contains(byte));
    (1..=3).contains(&word.len()) && letters && word.iter().any(|byte| b"wax+".contains(byte))
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn is_called(rest: &[u8]) -> bool {
    let rest = &rest[..rest.len().min(16)];
    rest.trim_ascii_start().first() == Some(&b'(')
}

/// What stands before `at` in its line, as far as it is looked at.
fn line_before(text: &[u8], at: usize) -> &[u8] {
    let from = at.saturating_sub(BACK);
    let begin = text[from..at].iter().rposition(|byte| *byte == b'\n').map_or(from, |newline| from + newline + 1);
    &text[begin..at]
}

/// Whether `at` lies in a comment, in the plain cases: a line that is one, and a block whose
/// lines all begin with a star. In doubt it is code.
fn is_comment(language: Language, text: &[u8], at: usize) -> bool {
    let line = line_before(text, at).trim_ascii_start();
    if language != Language::JavaScript {
        return line.starts_with(b"#") && !line.starts_with(b"#!");
    }
    if line.starts_with(b"//") {
        return true;
    }
    if line.starts_with(b"/*") {
        return !contains(line, b"*/");
    }
    if !line.starts_with(b"*") || contains(line, b"*/") {
        return false;
    }
    // Up to the line that begins the block.
    let above = &text[at.saturating_sub(BACK)..at - line_before(text, at).len()];
    for line in above.split(|byte| *byte == b'\n').rev().skip(1) {
        let line = line.trim_ascii_start();
        if contains(line, b"*/") {
            return false;
        }
        if line.starts_with(b"/*") {
            return true;
        }
        if !line.starts_with(b"*") {
            return false;
        }
    }
    false
}

fn contains(text: &[u8], what: &[u8; 2]) -> bool {
    text.windows(2).any(|pair| pair == what)
}
